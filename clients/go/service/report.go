package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// A line of the table: all receivers of one way together.
type reportLine struct {
	name                string
	receivers           int64
	received, duplicate int64
	gaps                int64
	late                []time.Duration
	last                time.Time
}

// print writes the table.
func (l *loadTest) print(out io.Writer, receivers []*receiver) {
	var lines []*reportLine
	for _, r := range receivers {
		if r.name == wayIdle {
			continue
		}
		i := slices.IndexFunc(lines, func(line *reportLine) bool { return line.name == r.name })
		if i < 0 {
			i = len(lines)
			lines = append(lines, &reportLine{name: r.name})
		}
		line := lines[i]
		line.receivers++
		line.received += int64(len(r.got))
		line.duplicate += r.duplicate
		line.gaps += r.gaps
		line.late = append(line.late, r.late...)
		if r.last.After(line.last) {
			line.last = r.last
		}
	}

	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "way\treceivers\twritten\treceived\tmissing\tduplicates\tgaps\tchanges/s\tp50 ms\tp95 ms\tp99 ms\t")
	written := l.written.Load()
	for _, line := range lines {
		expected := written * line.receivers
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%s\t%s\t%s\t\n",
			line.name, line.receivers, written, line.received, expected-line.received, line.duplicate, line.gaps,
			perSecond(line.received, line.last.Sub(l.firstWrite)),
			milliseconds(line.late, 50), milliseconds(line.late, 95), milliseconds(line.late, 99))
	}
	_ = table.Flush()
	fmt.Fprintf(out, "Latency is from when a statement is sent until its event is in the program, the commit included;\n"+
		"the statement alone: p50 %s ms, p95 %s ms, p99 %s ms. Written: %.0f changes/s.\n",
		milliseconds(l.statements, 50), milliseconds(l.statements, 95), milliseconds(l.statements, 99),
		perSecond(written, l.lastWrite.Sub(l.firstWrite)))
}

func perSecond(count int64, in time.Duration) float64 {
	if in <= 0 {
		return 0
	}
	return float64(count) / in.Seconds()
}

// milliseconds writes a percentile, by the nearest rank; a dash if there is none.
func milliseconds(values []time.Duration, percent int) string {
	if len(values) == 0 {
		return "-"
	}
	slices.Sort(values)
	rank := max(1, (len(values)*percent+99)/100)
	return fmt.Sprintf("%.2f", float64(values[rank-1])/float64(time.Millisecond))
}
