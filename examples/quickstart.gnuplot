# Draws what quickstart measures: gnuplot -c examples/quickstart.gnuplot DATA PICTURE.png
data = ARG1
set datafile separator tab columnheaders
set terminal pngcairo size 1200,480 font "DejaVu Sans,11" background "white"
set output ARG2

set style data histograms
set style histogram clustered gap 1
set style fill solid noborder
set border 3 linecolor "gray40"
set tics nomirror
set grid ytics linecolor "gray85"
set key top left reverse Left samplen 1 noautotitle
array colour[4] = ["", "gray60", "#56b4e9", "#0072b2"]

set multiplot layout 1,2

set title "Attention error by query head, 3 bits an element in all"
set xlabel "query head"
set ylabel "KL(full precision || quantized)"
set yrange [0:*]
plot data index 0 using 2:xtic(1) title columnheader(2) linecolor rgb colour[2], \
     data index 0 using 4 title columnheader(4) linecolor rgb colour[3], \
     data index 0 using 5 title columnheader(5) linecolor rgb colour[4]

set title "Mean over heads, min-max = 100 %"
set xlabel "codes, scales and zero points, per element"
set ylabel "KL divergence, % of min-max"
set yrange [0:125]
plot data index 1 using (100):xtic(1) linecolor rgb colour[2], \
     data index 1 using (100 * $4 / $2) linecolor rgb colour[3], \
     data index 1 using (100 * $5 / $2) linecolor rgb colour[4]
unset multiplot
