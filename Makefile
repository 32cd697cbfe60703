# pgpubsub: built by PGXS.
#
#   make, make install        build and install for the server of PG_CONFIG
#   make installcheck         pg_regress, isolation and pgTAP tests against a
#                             running server that preloads pgpubsub
#   make installcheck-tap     Perl TAP tests, on servers that they make
#   make test                 all of them on a private throwaway server
#   make demo, demo-stop      a small shop that publishes its changes
#   make soak SECONDS=300     everything at once on a private server
#   make load                 a table of what arrives how late; OPTIONS='-rate 0'
#   make test-clients         the packages in clients/
#   make programs             build pgpubsub-gateway and -bridge, in programs/
#   make deb                  Debian packages; see scripts/deb
#   make dist                 a bundle for PGXN; see scripts/dist
#
# make test takes PG_MAJOR=17, KIND='regress isolation ...' and
# TESTS='names or patterns'; see scripts/test.

MODULE_big = pgpubsub
EXTENSION = pgpubsub
PGFILEDESC = "pgpubsub - change events and publish/subscribe over NOTIFY"

# The directory of this file, which is another one in a VPATH build.
tree := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))

headers := $(wildcard $(tree)/src/*/*.h)
sources := $(sort $(wildcard $(tree)/src/*.c $(tree)/src/*/*.c))
OBJS := $(patsubst $(tree)/%.c,%.o,$(sources))
folders := $(addprefix $(CURDIR)/,$(sort $(patsubst %/,%,$(dir $(OBJS)))))
DATA := $(patsubst $(tree)/%,%,$(wildcard $(tree)/sql/pgpubsub--*.sql \
	$(tree)/pgpubsub--*.control))

# A fresh 1.1 is the schema, which 1.0 wants to be there, 1.0 and what 1.1
# changes, in one script: that way it may be installed WITH SCHEMA pg_catalog,
# which is what pg_dump writes.
DATA_built := $(CURDIR)/build/pgpubsub--1.1.sql
PG_CPPFLAGS = -I$(tree)/src -fvisibility=hidden

# README and its pages link to one another, and so are installed as they lie here;
# DOCS would put them all into one directory, which other extensions share.
documents = $(DESTDIR)$(docdir)/$(docmoduledir)/$(MODULE_big)
pages := $(patsubst $(tree)/%,%,$(wildcard $(tree)/README.md $(tree)/CHANGELOG.md \
	$(tree)/doc/*.md $(tree)/doc/*.png))

# Tests in the order of their names.  Name some on the command line to run
# only those: make installcheck REGRESS=attach ISOLATION= PGTAP=
test_output = build
tests_in = $(sort $(notdir $(basename $(wildcard $(tree)/test/$(1)))))

# pg_regress wants sql/ and expected/ side by side (15 knows no --expecteddir);
# test-output links them into its output directory.
REGRESS = $(call tests_in,sql/*.sql)
REGRESS_OPTS = --inputdir=$(test_output)/regress \
	--outputdir=$(test_output)/regress --load-extension=pgpubsub
REGRESS_PREP = test-output

# The specs' helper functions come from a spec that runs before all others.
ISOLATION = $(filter-out helpers,$(call tests_in,isolation/specs/*.spec))
ISOLATION_OPTS = --inputdir=$(tree)/test/isolation \
	--outputdir=$(test_output)/isolation --load-extension=pgpubsub helpers

PGTAP = $(call tests_in,pgtap/*.sql)
TAP = $(call tests_in,t/*.pl)

EXTRA_CLEAN = build

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

ifneq ($(PGXS),)

include $(PGXS)

$(DATA_built): $(patsubst %,$(tree)/sql/%.sql,schema pgpubsub--1.0 \
		pgpubsub--1.0--1.1)
	@$(MKDIR_P) '$(@D)'
	cat $^ >'$@'

# PGXS tracks no headers unless the server was configured to.
$(OBJS) $(OBJS:.o=.bc): $(headers) | $(folders)

$(folders):
	$(MKDIR_P) '$@'

install: install-documents
uninstall: uninstall-documents

.PHONY: install-documents uninstall-documents

install-documents:
	$(MKDIR_P) '$(documents)/doc'
	for page in $(pages); do \
		$(INSTALL_DATA) "$(tree)/$$page" "$(documents)/$$page" || exit; \
	done

uninstall-documents:
	rm -f $(patsubst %,'$(documents)/%',$(pages))
	-rmdir '$(documents)/doc' '$(documents)'

else

# make test and make demo install what is missing; these cannot.
all install uninstall installcheck clean:
	@echo "$(PG_CONFIG) was not found: install the server's development" \
		"package, or set PG_CONFIG" >&2; exit 1

endif

.PHONY: test-output installcheck-pgtap installcheck-tap test demo demo-stop style

test-output:
	@mkdir -p $(test_output)/regress $(test_output)/isolation
	@ln -sfn '$(abspath $(tree))/test/sql' $(test_output)/regress/sql
	@ln -sfn '$(abspath $(tree))/expected' $(test_output)/regress/expected

installcheck: installcheck-pgtap

installcheck-pgtap:
ifneq ($(strip $(PGTAP)),)
	PATH="$(bindir):$$PATH" $(tree)/scripts/installcheck-pgtap \
		$(patsubst %,$(tree)/test/pgtap/%.sql,$(PGTAP))
endif

# PostgreSQL's Perl modules give each test a server of its own; TEMP_CONFIG is
# what they add to its configuration.
tap_output = $(abspath $(test_output))/tap

installcheck-tap:
	rm -rf '$(tap_output)'
	mkdir -p '$(tap_output)'
	cd $(tree) && PATH="$(bindir):$$PATH" \
		TESTDIR='$(tap_output)' \
		TESTDATADIR='$(tap_output)/tmp_check' \
		TESTLOGDIR='$(tap_output)/tmp_check/log' \
		PGPORT=6$(DEF_PGPORT) \
		PGPUBSUB_PROGRAMS="$${PGPUBSUB_PROGRAMS:-$$PWD/programs}" \
		PG_REGRESS='$(dir $(PGXS))../../src/test/regress/pg_regress' \
		TEMP_CONFIG="$$PWD/test/regress.conf" \
		prove -I '$(dir $(PGXS))../../src/test/perl' -I test/perl \
		$(PROVE_FLAGS) $(patsubst %,test/t/%.pl,$(TAP))

test:
	@$(tree)/scripts/test

demo:
	@$(tree)/scripts/demo

demo-stop:
	@$(tree)/scripts/demo stop

style:
	@$(tree)/scripts/check-style

# What stands beside the extension, and needs libraries that it does not.
.PHONY: programs

programs:
	@$(tree)/scripts/programs

# Packages and bundles; see scripts/deb and scripts/dist.
.PHONY: deb dist

deb:
	@$(tree)/scripts/deb

dist:
	@$(tree)/scripts/dist

# The packages in clients, and the gateway with drivers that are downloaded; see
# scripts/test-clients.
.PHONY: test-clients

test-clients:
	@$(tree)/scripts/test-clients

# Writes to a table, and shows what arrives how late; see scripts/load.
.PHONY: load

load:
	@$(tree)/scripts/load $(OPTIONS)

# Ratios to plain NOTIFY, into bench/results; see scripts/bench.
.PHONY: bench

bench:
	@$(tree)/scripts/bench

# Everything at once for a while; see scripts/soak.
.PHONY: soak

soak:
	@SOAK_SECONDS='$(or $(SECONDS),300)' $(tree)/scripts/soak
