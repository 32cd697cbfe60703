# Bars.pm: a grouped bar chart as an SVG file.
package Bars;

use strict;
use warnings;

use constant { WIDTH => 720, HEIGHT => 320, LEFT => 70, RIGHT => 10, TOP => 60, BOTTOM => 30 };

# Distinct for the colour-blind too (Okabe and Ito).
my @colours = map {"#$_"} qw(999999 d55e00 e69f00 0072b2 56b4e9 009e73 cc79a7);

# A figure as people read it: 950, 12.3k, 1.4M.
sub short {
    my ($value) = @_;
    return '0' if $value == 0;
    return sprintf('%.3gM', $value / 1e6) if $value >= 999_500;
    return sprintf('%.0fk', $value / 1e3) if $value >= 99_950;
    return sprintf('%.3gk', $value / 1e3) if $value >= 9_995;
    return sprintf('%.0f', $value) if $value >= 100;
    return sprintf('%.3g', $value);
}

sub escape {
    my ($text) = @_;
    $text =~ s/&/&amp;/g;
    $text =~ s/</&lt;/g;
    return $text;
}

sub text {
    my ($x, $y, $anchor, $size, $text) = @_;
    return sprintf qq{<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d">%s</text>\n},
        $x, $y, $anchor, $size, escape($text);
}

# The round number at or above a value: 1, 2 or 5 and zeros.
sub ceiling {
    my ($value) = @_;
    my $power = 10**int(log($value) / log(10) + ($value < 1 ? -1 : 0));
    for my $step (1, 2, 5, 10) {
        return $step * $power if $step * $power >= $value * 0.999;
    }
    return 10 * $power;
}

# Bars::write(FILE, title => ..., groups => [names], series => [names],
#             values => [per series [per group]])
# Values that are not there leave their place empty.
sub write {
    my ($file, %chart) = @_;
    my ($groups, $series) = ($chart{groups}, $chart{series});
    my $max = 0;
    for my $value (map { @$_ } @{ $chart{values} }) {
        $max = $value if defined $value && $value > $max;
    }
    return if $max <= 0;
    my $top = ceiling($max);
    my ($plot_width, $plot_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    my $group_width = $plot_width / @$groups;
    my $bar_width = $group_width * 0.86 / @$series;

    my $svg = sprintf qq{<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" fill="#222">\n},
        WIDTH, HEIGHT;
    $svg .= sprintf qq{<rect width="%d" height="%d" fill="#fff"/>\n}, WIDTH, HEIGHT;
    $svg .= text(LEFT, 18, 'start', 14, $chart{title});
    for my $tick (0 .. 4) {
        my $y = TOP + $plot_height * (1 - $tick / 4);
        $svg .= sprintf qq{<path d="M%d %.1fH%d" stroke="#ddd"/>\n}, LEFT, $y, WIDTH - RIGHT;
        $svg .= text(LEFT - 6, $y + 4, 'end', 11, short($top * $tick / 4));
    }
    my $legend = LEFT;
    for my $s (0 .. $#$series) {
        $svg .= sprintf qq{<rect x="%.1f" y="30" width="10" height="10" fill="%s"/>\n},
            $legend, $colours[$s];
        $svg .= text($legend + 14, 39, 'start', 11, $series->[$s]);
        $legend += 28 + 6.2 * length $series->[$s];
    }
    for my $g (0 .. $#$groups) {
        my $left = LEFT + $group_width * ($g + 0.07);
        for my $s (0 .. $#$series) {
            my $value = $chart{values}[$s][$g];
            next unless defined $value;
            my $height = $plot_height * ($value > 0 ? $value : 0) / $top;
            my $x = $left + $bar_width * $s;
            $svg .= sprintf qq{<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>\n},
                $x, TOP + $plot_height - $height, $bar_width * 0.9, $height, $colours[$s];
            $svg .= text($x + $bar_width * 0.45, TOP + $plot_height - $height - 3, 'middle', 9,
                short($value));
        }
        $svg .= text(LEFT + $group_width * ($g + 0.5), HEIGHT - 10, 'middle', 11, $groups->[$g]);
    }
    open my $out, '>', $file or die "$file: $!\n";
    print $out $svg, "</svg>\n";
    close $out or die "$file: $!\n";
    return;
}

1;
