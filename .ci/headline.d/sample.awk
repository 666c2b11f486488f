# One sample of QEMU's memory from its smaps: bytes, comma separated:
#   resident   of guest memory: of mappings registered for missing faults (um) if there are any, else of the guest's RAM
#   staged     of mappings that are only write-protected by userfaultfd (uw without um): what was taken out and not compressed yet
#   anonymous  of the whole process
#   swapped    of the whole process, in the kernel's swap
# The guest's RAM is the largest mapping of just `guest` bytes. smaps counts in kB.
function close_mapping() {
  if (size == 0) return
  if (flags ~ / um/) { registered += anon; any = 1 }
  else if (flags ~ / uw/) staged += anon
  if (size * 1024 == guest) ram += anon
  all += anon; swapped += swap
  size = anon = swap = 0; flags = ""
}
/^[0-9a-f]+-[0-9a-f]+ / { close_mapping() }
$1 == "Size:" { size = $2 }
$1 == "Anonymous:" { anon = $2 }
$1 == "Swap:" { swap = $2 }
$1 == "VmFlags:" { flags = " " $0 }
END {
  close_mapping()
  printf "%.0f,%.0f,%.0f,%.0f\n", (any ? registered : ram) * 1024, staged * 1024, all * 1024, swapped * 1024
}
