package pgpubsub

import (
	"fmt"
	"time"
)

// An Event is what a subscription hands out: a [*Message] or a [*Gap].
type Event interface {
	// Sequence returns the event's number. Numbers of one database increase,
	// also over restarts, and mean nothing else.
	Sequence() int64

	event()
}

// A Message is an event that somebody published.
type Message struct {
	Seq       int64
	Channel   string
	Payload   string
	PID       int32     // the server process that published it
	RelayedAt time.Time // when it was put onto the queue
}

// Sequence returns m.Seq.
func (m *Message) Sequence() int64 { return m.Seq }

func (m *Message) event() {}

// A Gap stands where events of the subscription are missing. What was derived
// from the events is to be read from the tables again.
type Gap struct {
	Seq  int64
	Lost int64 // how many are missing; -1 if that is not known
}

// Sequence returns g.Seq.
func (g *Gap) Sequence() int64 { return g.Seq }

func (g *Gap) event() {}

// Known tells whether the number of missing events is known.
func (g *Gap) Known() bool { return g.Lost >= 0 }

func (g *Gap) String() string {
	if g.Known() {
		return fmt.Sprintf("%d events are missing", g.Lost)
	}
	return "an unknown number of events is missing"
}
