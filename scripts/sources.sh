# scripts/sources.sh: PostgreSQL's sources as Debian has them; sourced, not
# run, after lib.sh.

# shellcheck shell=bash

# apt_private COMMAND...: an apt command that knows only Debian's source
# packages, and keeps what it knows in $apt.
apt_private() {
    "$@" -o Dir::Etc::SourceList="$apt/sources.list" \
        -o Dir::Etc::SourceParts="$apt/none" -o Dir::State::Lists="$apt/lists" \
        -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root </dev/null
}

# Where this machine has Debian's packages from, there are their sources too.
# $(...) is apt's.
write_source_list() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=
    # shellcheck disable=SC2016
    local format='$(REPO_URI) $(RELEASE) $(COMPONENT)'

    [ ! -f "$keyring" ] || signed="[signed-by=$keyring] "
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/none"
    apt-get indextargets --format "$format" 'Created-By: Packages' \
        'Origin: Debian' 'Component: main' | sort -u |
        sed "s|^|deb-src $signed|" >"$apt/sources.list"
}

# fetch_source PACKAGE VERSION: have that source package in $sources, unpacked
# in $sources/VERSION with the options in source_options.
source_options=()
fetch_source() {
    local dsc
    (
        cd "$sources"
        apt_private apt-get -q source --download-only "$1=$2"
    ) >>"$sources/apt.log" 2>&1 || return 1
    dsc=$sources/$1_${2#*:}.dsc
    rm -rf "$sources/unpacked"
    dpkg-source "${source_options[@]}" -x "$dsc" "$sources/unpacked" >>"$sources/apt.log" 2>&1 || return 1
    mv "$sources/unpacked" "$sources/$2"
}

# get_source MAJOR PLACE: the sources of the installed server, or of the newest
# minor version that is to be had, in PLACE/sources/VERSION.  Sets
# source_version; exits with 3 if there are none.
get_source() {
    local package=postgresql-$1 place=$2 installed version
    installed=$(dpkg-query -W -f '${source:Version}' "$package")
    apt=$place/apt sources=$place/sources
    mkdir -p "$sources"

    source_version=$installed
    [ ! -d "$sources/$installed" ] || return 0
    install_packages dpkg-dev bzip2 xz-utils patch debian-archive-keyring
    : >"$sources/apt.log"
    for _ in 1 2; do
        write_source_list
        [ ! -s "$apt/sources.list" ] || break
        apt_get update >>"$sources/apt.log" 2>&1
    done
    apt_private apt-get -q update >>"$sources/apt.log" 2>&1 || true
    for version in "$installed" $(apt_private apt-cache showsrc "$package" 2>/dev/null |
        sed -n 's/^Version: //p' | sort -rVu); do
        source_version=$version
        [ ! -d "$sources/$version" ] || return 0
        if fetch_source "$package" "$version"; then
            return
        fi
    done
    tail -n 20 "$sources/apt.log" >&2
    warn "the sources of $package are not to be had"
    exit 3
}
