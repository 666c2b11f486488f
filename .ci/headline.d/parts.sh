# What the runs are made of; sourced by .ci/headline. Sets qemu, kernel, initramfs, zspool, preload; all of it below $work.

need() { # program, its package: installs what is missing; says so and fails where it cannot be had
  command -v "$1" >/dev/null && return
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; } >"$work/apt.log" 2>&1 || true
  command -v "$1" >/dev/null || { not_run "$1 is missing, and apt-get install $2 did not bring it: $(tail -n 1 "$work/apt.log")"; return 1; }
}

unpack() { # package: its files below $work/unpacked, without installing it
  [ -e "$work/unpacked/.$1" ] && return
  mkdir -p "$work/packages" "$work/unpacked"
  (cd "$work/packages" && apt-get download -qq "$1" && dpkg-deb -x "$1"_*.deb "$work/unpacked") >"$work/apt.log" 2>&1 ||
    { not_run "apt-get download $1 failed: $(tail -n 1 "$work/apt.log")"; return 1; }
  touch "$work/unpacked/.$1"
}

make_parts() {
  need qemu-system-x86_64 qemu-system-x86 && need cpio cpio && need awk mawk && unpack busybox-static || return 1
  qemu=$(command -v qemu-system-x86_64)
  kernel=${KERNEL:-}
  if [ -z "$kernel" ]; then
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$package" ] || { not_run "apt knows no linux-image-cloud-amd64; name a bzImage with KERNEL=FILE"; return 1; }
    unpack "$package" || return 1
    kernel=$work/unpacked/boot/vmlinuz-${package#linux-image-}
  fi
  initramfs=$work/initramfs.gz
  local root=$work/root
  rm -rf "$root" && mkdir -p "$root"/{bin,proc,dev,data}
  install -m 755 "$work/unpacked/bin/busybox" "$root/bin/busybox"
  install -m 755 "$here/init" "$root/init"
  # By the guest's own awk, so that the text does not depend on this machine's.
  "$root/bin/busybox" awk -v seed=$seed -v bytes=12000000 -f "$here/data.awk" >"$root/base"
  find "$root" -exec touch -h -d @0 {} + # the archive is then the same every time, and so is the key of a run
  (cd "$root" && find . | sort | cpio -o -H newc --quiet --reproducible -R 0:0 | gzip -n -1) >"$initramfs"
  rm -rf "$root"

  zspool='' preload=''
  if [[ " ${runs[*]} " = *" zspool-"* ]]; then
    local built=${BUILT:-}
    if [ -z "$built" ]; then
      cargo build --release -p zspool -p zspool-preload --features zspool/full --quiet # together: the crate is built once
      built=${CARGO_TARGET_DIR:-target}/release
    fi
    zspool=$(realpath "$built/zspool") preload=$(realpath "$built/libzspool_preload.so")
  fi
  echo "guest: $guest_bytes bytes, kernel $(basename "$kernel"), $("$qemu" --version | head -n 1)"
}

# QEMU's command line. Its translation buffer, by default as large as the host allows, is bounded, for it is no guest memory.
qemu_command() { # FILE for the process id
  command=("$qemu" -machine pc -accel "tcg,tb-size=$((translation_bytes >> 20))" -m "$((guest_bytes >> 20))" -nodefaults -no-reboot -display none -serial stdio
    -kernel "$kernel" -initrd "$initramfs" -append "console=ttyS0 quiet panic=-1 headline.pause=$pause" -pidfile "$1")
}

key_of() { # run: what went into it, as one checksum
  { echo "$1 $guest_bytes $translation_bytes $seed $pause"; sha256sum "$here"/{init,data.awk,parts.sh,kernel.sh,runs.sh,sample.awk} "$kernel" "$initramfs" "$qemu"
    case $1 in zspool-*) sha256sum "$zspool" "$preload" ;; *) uname -r ;; esac; } | sha256sum | cut -c1-16
}
