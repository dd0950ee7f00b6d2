#!/usr/bin/env bash
# Builds the library for C and C++ and installs it, on Linux:
#
#   scripts/install-capi.sh PREFIX [FEATURES]
#
# PREFIX/include/u2pl_engine.h, PREFIX/lib/libu2pl_engine.so (with its version behind it) and .a,
# PREFIX/lib/pkgconfig/u2pl-engine.pc. FEATURES (default: cuda) are cargo features beside `capi`;
# "" is the CPU alone. LIBDIR names another folder for libraries; DESTDIR goes before every path
# that is written to, and into none that is written down, as packagers want it.
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: $0 PREFIX [FEATURES]" >&2; exit 2; }
[ "$(uname -s)" = Linux ] || { echo "this script knows Linux only" >&2; exit 1; }
prefix=$(realpath -ms "$1")
features=capi,${2-cuda}
libdir=$(realpath -ms "${LIBDIR:-$prefix/lib}")
cd "$(dirname "$0")/.."

version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
# Before 1.0 a minor version may break the ABI, and the name that programs load says so.
soname=libu2pl_engine.so.${version%.*}
case $version in 0.*) ;; *) soname=libu2pl_engine.so.${version%%.*} ;; esac

part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT
cargo rustc --release --lib --no-default-features --features "$features" \
  --crate-type cdylib,staticlib \
  -- -C link-arg="-Wl,-soname,$soname" --print native-static-libs 2>&1 | tee "$part/log" >&2
private=$(sed -n 's/^note: native-static-libs: //p' "$part/log" | tail -n 1)
[ -n "$private" ] || { echo "the compiler named no native-static-libs" >&2; exit 1; }
built=${CARGO_TARGET_DIR:-target}/release

sed -e "s|@PREFIX@|$prefix|" -e "s|@LIBDIR@|$libdir|" -e "s|@VERSION@|$version|" \
  -e "s|@PRIVATE_LIBS@|$private|" u2pl-engine.pc.in >"$part/u2pl-engine.pc"
root=${DESTDIR:-}
install -Dm644 include/u2pl_engine.h "$root$prefix/include/u2pl_engine.h"
install -Dm644 "$part/u2pl-engine.pc" "$root$libdir/pkgconfig/u2pl-engine.pc"
install -Dm644 "$built/libu2pl_engine.a" "$root$libdir/libu2pl_engine.a"
install -Dm755 "$built/libu2pl_engine.so" "$root$libdir/libu2pl_engine.so.$version"
ln -sf "libu2pl_engine.so.$version" "$root$libdir/$soname"
ln -sf "$soname" "$root$libdir/libu2pl_engine.so"
echo "installed under $root$prefix; pkg-config --cflags --libs u2pl-engine (PKG_CONFIG_PATH=$libdir/pkgconfig)"
