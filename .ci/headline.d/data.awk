# The text that the guest's files are made of: lines of a service's log, the same for the same `seed`, until there are `bytes`.
# Numbers and identifiers are what does not compress; three lines of eight go on with the request before, so that
# LZ4 packs a page of it about 2.5 to 1, as it does pages of real programs.
function random(n) { # 0..n-1: Lehmer's generator with Park and Miller's numbers, exact in a double
  state = (state * 48271) % 2147483647
  return int(state / 2147483647 * n)
}
function identifier() { return sprintf("%06x%06x", random(16777216), random(16777216)) }
BEGIN {
  trace = identifier()
  state = seed
  split("GET GET GET PUT POST DELETE", verb, " ")
  split("items orders users carts prices images reviews sessions", noun, " ")
  split("200 200 200 200 201 204 301 404 500", status, " ")
  split("accepted|looked up in the cache|read from the database|written to the journal|sent", event, "|")
  for (at = 0; written < bytes; ) {
    if (random(8) < 5) {
      node = random(24); process = 1000 + random(40); trace = identifier()
      request = verb[1 + random(6)] " /v1/" noun[1 + random(8)] "/" random(100000)
    }
    at += random(40)
    line = sprintf("2026-11-21T%02d:%02d:%02d.%03d node%02d api[%d]: %s %s %s in %d us, trace %s\n", int(at / 3600000) % 24,
      int(at / 60000) % 60, int(at / 1000) % 60, at % 1000, node, process, request, event[1 + random(5)], status[1 + random(9)],
      80 + random(9000), trace)
    if (length(line) > bytes - written) line = substr(line, 1, bytes - written)
    printf "%s", line
    written += length(line)
  }
}
