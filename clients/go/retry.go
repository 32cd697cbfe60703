package pgpubsub

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// SQLSTATEs that the loops know.
const (
	stateInUse   = "55006" // another session reads the subscription
	stateInvalid = "22023"
)

// firstDelay is the longest pause after a first failure, inUseDelay after any
// number of them if another session reads the subscription.
const (
	firstDelay = 100 * time.Millisecond
	inUseDelay = time.Second
)

// sqlState returns the SQLSTATE of an error of the server, else "".
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// permanent tells whether a failure stays one however often the same is tried:
// a wrong argument, login or privilege, a missing subscription, extension or
// database, a closed pool. Everything else (a connection, a server or a pooler that goes away,
// a standby, a relay that does not answer) may be over at the next try.
func permanent(err error) bool {
	var failed *handlerError
	if errors.As(err, &failed) || errors.Is(err, puddle.ErrClosedPool) {
		return true
	}
	state := sqlState(err)
	if len(state) < 2 {
		return false
	}
	switch state[:2] {
	case "0A", "22", "28", "3D", "3F", "42":
		return true
	}
	return false
}

// serialization tells whether a transaction failed for others that ran at the
// same time.
func serialization(err error) bool {
	state := sqlState(err)
	return state == "40001" || state == "40P01"
}

// A backoff gives the pauses between tries: random, and at most twice as long
// each time.
type backoff struct {
	limit time.Duration
	next  time.Duration
}

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) delay(err error) time.Duration {
	limit := b.limit
	if sqlState(err) == stateInUse {
		limit = min(limit, inUseDelay)
	}
	if b.next == 0 {
		b.next = firstDelay
	}
	longest := min(b.next, limit)
	b.next = min(2*b.next, b.limit)
	// at least half of it, so that the first tries do not come all at once
	return longest/2 + rand.N(longest/2+1)
}

// sleep waits for the time given or for the context's end.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
