/*-------------------------------------------------------------------------
 *
 * init.c
 *	  What happens when the library is loaded.
 *
 *-------------------------------------------------------------------------
 */
#include "base/pgpubsub.h"

#include "base/debug.h"
#include "registry/registry.h"
#include "server/server.h"
#include "transaction.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/*
 * Set up every part: for this session alone, or for the server if it is about
 * to start.  (Without shared memory the settings' prefix is not reserved: those
 * that size it may well be in the configuration, and each session would be
 * warned of each.)
 */
void
_PG_init(void)
{
	settings_define_session();
	transaction_init();
	if (!process_shared_preload_libraries_in_progress)
		return;

	settings_define_server();
	debug_init();
	MarkGUCPrefixReserved("pgpubsub");
	registry_init();
	hooks_init();
	launcher_init();
}
