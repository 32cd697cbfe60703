package pgpubsub

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// errDone ends a loop whose caller wants no more.
var errDone = errors.New("done")

// leaveTimeout bounds the acknowledgement of a consumer whose context has ended.
const leaveTimeout = 5 * time.Second

// A consumer is the state of one loop.
type consumer struct {
	*Subscription
	backoff backoff
	failing bool          // the last try failed
	full    bool          // the last batch was: there may be more already
	longest time.Duration // of the next wait
	handled int64         // acknowledge up to this,
	open    bool          // if that was not done yet
	ackedAt time.Time
}

// start begins a loop; the caller has to call stop at its end.
func (s *Subscription) start() *consumer {
	s.client.slots.consumers.Add(1)
	return &consumer{
		Subscription: s,
		backoff:      backoff{limit: s.client.options.MaxDelay},
		longest:      turn,
		ackedAt:      time.Now(),
	}
}

// stop acknowledges what was handled, once; what that fails for comes again. The
// context has often ended by now, so its end does not count.
func (c *consumer) stop(ctx context.Context) {
	c.client.slots.consumers.Add(-1)
	if c.open {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		if _, err := c.Ack(ctx, c.handled); err != nil {
			c.client.options.Logger.Warn("handled events were not acknowledged, and come again",
				"subscription", c.name, "error", err)
		}
	}
}

// try calls a function until it succeeds, the context ends or the error is
// permanent.
func (c *consumer) try(ctx context.Context, call func() error) error {
	for {
		err := call()
		if err == nil {
			if c.failing {
				c.failing = false
				c.client.options.Logger.Info("the subscription can be read again", "subscription", c.name)
			}
			c.backoff.reset()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if permanent(err) {
			return err
		}
		c.failing = true
		pause := c.backoff.delay(err)
		c.client.options.Logger.Warn("could not read the subscription, trying again",
			"subscription", c.name, "error", err, "pause", pause)
		if hook := c.client.options.Hooks.Retry; hook != nil {
			hook(c.name, err, pause)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// wait returns when there may be something to read. It holds no snapshot. The
// first waits are short, and then ever longer: of consumers that begin together
// the first ones must not keep all slots before it is known how many there are.
func (c *consumer) wait(ctx context.Context) error {
	slots, options := c.client.slots, &c.client.options
	if err := slots.take(ctx); err != nil {
		return err
	}
	defer slots.release()

	longest := slots.wait(min(c.longest, options.Wait))
	c.longest = min(2*c.longest, options.Wait)
	ctx, cancel := context.WithTimeout(ctx, longest+options.CallTimeout)
	defer cancel()
	_, err := c.client.pool.Exec(ctx, "CALL pgpubsub.wait($1::text, $2::interval)", pgx.QueryExecModeExec,
		c.name, fmt.Sprintf("%d ms", longest.Milliseconds()))
	if err != nil {
		return c.failed("wait for", err)
	}
	return nil
}

// next waits for events, and looks at them.
func (c *consumer) next(ctx context.Context, limit int) ([]Event, error) {
	var events []Event
	err := c.try(ctx, func() error {
		for {
			if !c.full {
				if err := c.wait(ctx); err != nil {
					return err
				}
			}
			var err error
			if events, err = c.look(ctx, limit); err != nil {
				return err
			}
			c.full = len(events) >= limit
			if len(events) > 0 {
				return nil
			}
		}
	})
	return events, err
}

// look fetches events without consuming them.
func (c *consumer) look(ctx context.Context, limit int) ([]Event, error) {
	ctx, cancel := context.WithTimeout(ctx, c.client.options.CallTimeout)
	defer cancel()
	events, err := c.poll(ctx, c.client.pool, limit, false)
	if err != nil {
		return nil, c.failed("poll", err)
	}
	return events, nil
}

// ack acknowledges what was handled.
//
// An acknowledgement may be repeated, also on a server that has restarted in the
// meantime: what this one has not handed out yet has higher numbers. One that
// does not know the number (a standby that was promoted, say) is looked at again.
func (c *consumer) ack(ctx context.Context) error {
	if !c.open {
		return nil
	}
	err := c.try(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, c.client.options.CallTimeout)
		defer cancel()
		_, err := c.Ack(ctx, c.handled)
		return err
	})
	if sqlState(err) == stateInvalid {
		c.client.options.Logger.Warn("the server does not know the events that were handled, and may send them again",
			"subscription", c.name, "error", err)
		err = nil
	}
	if err == nil {
		c.open, c.ackedAt = false, time.Now()
	}
	return err
}

// done notes that all events up to this one were handled. (A gap may have the
// number of a message before it, and is to be acknowledged all the same.)
func (c *consumer) done(event Event) {
	c.handled, c.open = event.Sequence(), true
}

// ackInTime acknowledges what was handled if that was not done for long.
func (c *consumer) ackInTime(ctx context.Context) error {
	if time.Since(c.ackedAt) < c.client.options.AckInterval {
		return nil
	}
	return c.ack(ctx)
}

// run hands out batch after batch until deliver, which calls done, returns an
// error; errDone stands for none.
func (s *Subscription) run(ctx context.Context, limit int, deliver func(c *consumer, batch []Event) error) error {
	c := s.start()
	defer c.stop(ctx)
	for {
		batch, err := c.next(ctx, limit)
		if err == nil {
			err = deliver(c, batch)
		}
		if err == nil {
			err = c.ack(ctx)
		}
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// each calls a function for each event in order.
func (s *Subscription) each(ctx context.Context, handle func(Event) error) error {
	return s.run(ctx, s.client.options.BatchSize, func(c *consumer, batch []Event) error {
		for _, event := range batch {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := c.ackInTime(ctx); err != nil {
				return err
			}
			if err := handle(event); err != nil {
				return err
			}
			c.done(event)
		}
		return nil
	})
}

// Events returns an iterator over the events from now on, each at least once:
// one counts as handled when the loop asks for the next, and comes again if the
// loop is left in its body. The last pair has an error: that of the context, or a
// permanent one.
func (s *Subscription) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		err := s.each(ctx, func(event Event) error {
			if !yield(event, nil) {
				return errDone
			}
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// Batches is as Events, but hands out what there is, at most limit events at a
// time; the client's BatchSize if that is 0. A batch counts as handled when the
// loop asks for the next.
func (s *Subscription) Batches(ctx context.Context, limit int) iter.Seq2[[]Event, error] {
	if limit <= 0 {
		limit = s.client.options.BatchSize
	}
	return func(yield func([]Event, error) bool) {
		err := s.run(ctx, limit, func(c *consumer, batch []Event) error {
			if !yield(batch, nil) {
				return errDone
			}
			c.done(batch[len(batch)-1])
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// A Delivery is an event that came through a channel.
type Delivery struct {
	Event
	acks  chan<- int
	index int
	acked *atomic.Bool
}

// Ack tells that the event was handled. It does not wait, and may be called from
// any goroutine.
func (d Delivery) Ack() {
	if d.acked.CompareAndSwap(false, true) {
		d.acks <- d.index
	}
}

// Channel is as Events in the form of a channel, for who has to select, or to
// handle several events at a time. An event counts as handled when Ack was called
// for it and for all events before it. The next batch is fetched when all of one
// are. The channel is closed when the context has ended or an error is permanent;
// the function then returns which.
func (s *Subscription) Channel(ctx context.Context) (<-chan Delivery, func() error) {
	var result error
	deliveries, done := make(chan Delivery), make(chan struct{})
	go func() {
		defer close(done)
		result = s.run(ctx, s.client.options.BatchSize, func(c *consumer, batch []Event) error {
			return c.send(ctx, batch, deliveries)
		})
		close(deliveries)
	}()
	return deliveries, func() error {
		<-done
		return result
	}
}

// send sends the events of a batch, and returns when all were acknowledged.
func (c *consumer) send(ctx context.Context, batch []Event, deliveries chan<- Delivery) error {
	var (
		acks  = make(chan int, len(batch)) // room for all, so that no Ack waits
		acked = make([]bool, len(batch))
		sent  int
		ended int // all before this are acked
	)
	note := func(index int) {
		acked[index] = true
		for ended < len(batch) && acked[ended] {
			c.done(batch[ended])
			ended++
		}
	}
	for ended < len(batch) {
		var to chan<- Delivery
		var next Delivery
		if sent < len(batch) {
			to = deliveries
			next = Delivery{Event: batch[sent], acks: acks, index: sent, acked: new(atomic.Bool)}
		}
		select {
		case to <- next:
			sent++
		case index := <-acks:
			note(index)
			if err := c.ackInTime(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			// what was acknowledged before the end counts
			for len(acks) > 0 {
				note(<-acks)
			}
			return ctx.Err()
		}
	}
	return nil
}

// A Handler handles one event.
type Handler func(ctx context.Context, event Event) error

// Handle calls the handler for each event, at least once. It returns the error
// of the context, a permanent one, or the handler's; the event for which the
// handler failed is not acknowledged, and comes again at the next Handle.
func (s *Subscription) Handle(ctx context.Context, handler Handler) error {
	return s.each(ctx, func(event Event) error {
		if err := handler(ctx, event); err != nil {
			return fmt.Errorf("pgpubsub: handle event %d of %q: %w", event.Sequence(), s.name, err)
		}
		return nil
	})
}

// A TxHandler handles a batch of events in the transaction that consumes them.
type TxHandler func(ctx context.Context, tx pgx.Tx, batch []Event) error

// HandleTx calls the handler for batches of events, at most the client's
// BatchSize each, in the transaction that consumes them. If the handler returns
// nil, the transaction is committed: what the handler wrote there, and that the
// events were consumed. So each event takes effect exactly once; also if the
// connection is lost in the commit. If the handler returns an error, the
// transaction is rolled back. HandleTx then returns that error; but if the
// connection was lost, or the transaction could not be serialized, it tries
// again, with the same events.
func (s *Subscription) HandleTx(ctx context.Context, handler TxHandler) error {
	c := s.start()
	defer c.stop(ctx)
	for {
		err := c.try(ctx, func() error {
			if !c.full {
				if err := c.wait(ctx); err != nil {
					return err
				}
			}
			count, err := c.transaction(ctx, handler)
			c.full = err == nil && count >= c.client.options.BatchSize
			return err
		})
		var failed *handlerError
		if errors.As(err, &failed) {
			return fmt.Errorf("pgpubsub: handle events of %q: %w", s.name, failed.err)
		}
		if err != nil {
			return err
		}
	}
}

// A handlerError is the error of a handler that is not to be called again.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }

// transaction handles one batch in one transaction, and returns its size.
func (c *consumer) transaction(ctx context.Context, handler TxHandler) (int, error) {
	tx, err := c.client.pool.Begin(ctx)
	if err != nil {
		return 0, c.failed("begin a transaction for", err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit there is nothing to do

	limit := c.client.options.BatchSize
	batch, err := c.Poll(ctx, tx, limit)
	if err != nil || len(batch) == 0 {
		return 0, err
	}
	if err := handler(ctx, tx, batch); err != nil {
		if tx.Conn().IsClosed() || serialization(err) {
			return 0, err
		}
		return 0, &handlerError{err}
	}
	err = tx.Commit(ctx)
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return 0, &handlerError{err} // a statement failed, and the handler returned nil
	}
	if err != nil {
		return 0, c.failed("commit events of", err)
	}
	if hook := c.client.options.Hooks.Consumed; hook != nil {
		hook(c.name, messages(batch))
	}
	return len(batch), nil
}

// messages counts the events that are no gaps.
func messages(batch []Event) int64 {
	var count int64
	for _, event := range batch {
		if _, gap := event.(*Gap); !gap {
			count++
		}
	}
	return count
}
