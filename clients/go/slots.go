package pgpubsub

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// turn is how long it takes about until all of the consumers that share
	// too few slots had one.
	turn = 200 * time.Millisecond

	// shortestWait bounds what taking turns costs.
	shortestWait = 10 * time.Millisecond
)

// slots bounds how many of a client's consumers wait at the same time. Each
// waiting one occupies a connection of the pool, and behind a pooler one of the
// server, which the other users of the pool then do not have.
type slots struct {
	taken     chan struct{}
	consumers atomic.Int64
	shared    bool // the one connection there is serves everybody else, too
}

func newSlots(count int, shared bool) *slots {
	return &slots{taken: make(chan struct{}, count), shared: shared}
}

// take waits for a slot; who came first gets one first.
func (s *slots) take(ctx context.Context) error {
	select {
	case s.taken <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slots) release() { <-s.taken }

// wait returns how long who has a slot may keep it: as long as it likes while
// there are enough for all.
func (s *slots) wait(longest time.Duration) time.Duration {
	consumers, count := s.consumers.Load(), int64(cap(s.taken))
	if consumers <= count && !s.shared {
		return longest
	}
	share := turn * time.Duration(count) / time.Duration(max(consumers, count))
	return min(longest, max(share, shortestWait))
}
