# Resident and compressed bytes over time, a panel a run, as SVG: two rows (zspool, the kernel's zram), three columns (100%, 50%
# and 25%). Input: samples.csv files in folders named by their runs. `guest`: bytes; `longest`: seconds, the width of a panel.
function x(seconds) { return left + seconds / longest * width }
function y(bytes) { return bottom - bytes / (guest * 1.12) * height }
function area(from, to, colour,   i, path) { # between two stacked columns
  path = sprintf("M%.1f %.1f", x(at[1]), y(from[1]))
  for (i = 2; i <= n; i++) path = path sprintf("L%.1f %.1f", x(at[i]), y(from[i]))
  for (i = n; i >= 1; i--) path = path sprintf("L%.1f %.1f", x(at[i]), y(to[i]))
  printf "<path d=\"%sZ\" fill=\"%s\"/>\n", path, colour
}
function panel(   i, column, row, limit, percent, mark) {
  if (n == 0) return
  percent = run; sub(/.*-/, "", percent)
  column = percent == 100 ? 0 : percent == 50 ? 1 : 2; row = run ~ /^zspool/ ? 0 : 1
  left = 52 + column * (width + 16); bottom = 72 + height + row * (height + 58)
  printf "<text x=\"%.1f\" y=\"%.1f\" font-weight=\"bold\">%s, %d%%: %.0f s</text>\n", left, bottom - height - 8, row ? "kernel zram" : "zspool", percent, last
  for (mark = 0; mark <= 512; mark += 128) {
    printf "<path d=\"M%.1f %.1fH%.1f\" stroke=\"#7d8590\" stroke-width=\"%s\" stroke-opacity=\"0.6\"/>\n", left, y(mark * 1048576), left + width, mark ? 0.5 : 1.5
    if (column == 0) printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%d</text>\n", left - 6, y(mark * 1048576) + 4, mark
  }
  labelled = -14
  area(none, resident, "#1a9c8c"); area(resident, staged, "#8b7bd8"); area(staged, compressed, "#d08332")
  limit = guest * percent / 100
  printf "<path d=\"M%.1f %.1fH%.1f\" stroke=\"#c9372c\" stroke-width=\"1.5\" stroke-dasharray=\"5 3\"/>\n", left, y(limit), left + width
  for (i = 2; i <= n; i++) if (step[i] != step[i - 1] && step[i] != "") {
    printf "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#7d8590\" stroke-opacity=\"0.7\"/>\n", x(at[i]), bottom, bottom + 5
    if (step[i] == "end" || x(at[i]) - labelled < 14) continue
    labelled = x(at[i])
    printf "<text x=\"%.1f\" y=\"%.1f\" font-size=\"10\" transform=\"rotate(35 %.1f %.1f)\">%s</text>\n", x(at[i]) + 1, bottom + 13, x(at[i]) + 1, bottom + 13, step[i]
  }
  title = title (title == "" ? "" : "; ") sprintf("%s %d%%: %.0f seconds", row ? "zram" : "zspool", percent, last)
  n = 0
}
BEGIN {
  width = 212; height = 150
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 470\" width=\"760\" height=\"470\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#7d8590\" role=\"img\">\n"
  print "<text x=\"52\" y=\"20\" font-size=\"15\" font-weight=\"bold\">Memory of a 512 MiB guest over time, MiB</text>"
  split("resident|taken out, not compressed yet|compressed|limit", legend, "|"); split("#1a9c8c #8b7bd8 #d08332 #c9372c", colours, " ")
  for (i = 1; i <= 4; i++) {
    printf "<rect x=\"%.1f\" y=\"%s\" width=\"12\" height=\"%s\" rx=\"2\" fill=\"%s\"/><text x=\"%.1f\" y=\"43\">%s</text>\n", 52 + offset, i < 4 ? 33 : 38, i < 4 ? 12 : 2, colours[i], 70 + offset, legend[i]
    offset += 34 + length(legend[i]) * 6.2
  }
}
FNR == 1 { panel(); run = FILENAME; sub(/\/samples.csv$/, "", run); sub(/.*\//, "", run); n = 0; next }
{
  last = $1
  if (n > 0 && ($1 - at[n]) / longest * width < 0.7 && $12 == step[n]) next # closer than can be seen
  n++; at[n] = $1; none[n] = 0; resident[n] = $2; staged[n] = $2 + $3; compressed[n] = $2 + $3 + $4; step[n] = $12
}
END {
  panel()
  printf "<title>Resident and compressed bytes over time. %s</title>\n</svg>\n", title
}
