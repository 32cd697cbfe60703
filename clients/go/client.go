package pgpubsub

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options change what a [Client] does. The zero value is good for most.
type Options struct {
	// BatchSize is how many events a consumer fetches at a time; 100 if 0.
	BatchSize int

	// MaxWaiting is how many consumers of this client wait for events at the
	// same time, each with a connection of the pool. With more consumers than
	// that, they take turns of a second in all. 0: half of the pool's
	// connections, at least one.
	MaxWaiting int

	// Wait is the longest time for which the server is asked to wait for an
	// event before it is asked again, which also finds a connection that died
	// without a word; 30 s if 0. The server cuts it to pgpubsub.max_poll_wait.
	Wait time.Duration

	// AckInterval is how often events are acknowledged while a batch is being
	// handled; 1 s if 0. They always are when the batch has been handled.
	AckInterval time.Duration

	// CallTimeout bounds each call to the server, above what that waits for;
	// 30 s if 0.
	CallTimeout time.Duration

	// MaxDelay is the longest pause between two tries; 30 s if 0.
	MaxDelay time.Duration

	// Logger gets a line for each failed try and for each recovery. Nil: none.
	Logger *slog.Logger

	// Hooks are called for what there is to count.
	Hooks Hooks
}

// Hooks are called by a client's consumers, from their goroutines; each may be
// nil, and none may block.
type Hooks struct {
	// Received is called for events that came from the server.
	Received func(subscription string, events []Event)

	// Consumed is called when the server has taken note that events were
	// handled: how many.
	Consumed func(subscription string, events int64)

	// Retry is called when something failed and is tried again after a pause.
	Retry func(subscription string, err error, pause time.Duration)
}

// A Client reads subscriptions over one pool. Any number of goroutines may use it.
type Client struct {
	pool    *pgxpool.Pool
	options Options
	slots   *slots
}

// New returns a client that takes its connections from the pool, for as long as
// it needs each; the pool stays the caller's, to use and to close. Nothing is
// left on a connection, and no statement is prepared, so the pool may be one of a
// pooler in transaction mode.
func New(pool *pgxpool.Pool, options Options) *Client {
	setDefault(&options.BatchSize, 100)
	setDefault(&options.Wait, 30*time.Second)
	setDefault(&options.AckInterval, time.Second)
	setDefault(&options.CallTimeout, 30*time.Second)
	setDefault(&options.MaxDelay, 30*time.Second)
	connections := int(pool.Config().MaxConns)
	setDefault(&options.MaxWaiting, max(1, connections/2))
	if options.Logger == nil {
		options.Logger = slog.New(discard{})
	}
	return &Client{
		pool:    pool,
		options: options,
		slots:   newSlots(options.MaxWaiting, options.MaxWaiting >= connections),
	}
}

func setDefault[T int | time.Duration](value *T, otherwise T) {
	if *value <= 0 {
		*value = otherwise
	}
}

// OnFull is what becomes of a subscription that holds up a full queue.
type OnFull string

// See the extension's documentation, "A full queue".
const (
	Evict OnFull = "evict" // writers wait for it shortly, then it misses events
	Drop  OnFull = "drop"  // it misses events
	Block OnFull = "block" // writers wait, then fail
)

// Where a new subscription may start, besides a sequence number and, for durable
// channels, a time.
const (
	Now    = "now"
	Oldest = "oldest"
)

// SubscribeOptions are those of [Client.Subscribe].
type SubscribeOptions struct {
	OnFull  OnFull // Evict if empty
	StartAt string // Now if empty
}

// A Subscription is a handle on one; opening and dropping handles does nothing on
// the server.
type Subscription struct {
	client *Client
	name   string
}

// Name returns the subscription's name.
func (s *Subscription) Name() string { return s.name }

// Subscribe creates the subscription, or gives one that stands already these
// channels and this OnFull; that one keeps its position. In a channel's name, *
// stands for any run of characters. When Subscribe returns, every event of a
// transaction that commits afterwards will be handed out, or counted in a gap.
//
// Unlike the loops, it does not try again: a program that cannot subscribe when
// it starts is best told why.
func (c *Client) Subscribe(ctx context.Context, name string, channels []string, options SubscribeOptions) (*Subscription, error) {
	if options.OnFull == "" {
		options.OnFull = Evict
	}
	if options.StartAt == "" {
		options.StartAt = Now
	}
	_, err := c.pool.Exec(ctx, "SELECT pgpubsub.subscribe($1::text, $2::text[], $3::text, $4::text)",
		pgx.QueryExecModeExec, name, channels, string(options.OnFull), options.StartAt)
	if err != nil {
		return nil, fmt.Errorf("pgpubsub: subscribe %q: %w", name, err)
	}
	return c.Open(name), nil
}

// Open returns the subscription of that name, which somebody has created. That
// it stands is found out by its first use.
func (c *Client) Open(name string) *Subscription {
	return &Subscription{client: c, name: name}
}

// Unsubscribe drops the subscription. It tells whether there was one.
func (c *Client) Unsubscribe(ctx context.Context, name string) (bool, error) {
	var stood bool
	err := c.pool.QueryRow(ctx, "SELECT pgpubsub.unsubscribe($1::text)", pgx.QueryExecModeExec, name).Scan(&stood)
	if err != nil {
		return false, fmt.Errorf("pgpubsub: unsubscribe %q: %w", name, err)
	}
	return stood, nil
}

// A querier is what queries run on: a transaction or a pool.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const pollSQL = "SELECT seq, channel, payload, pid, relayed_at, lost FROM pgpubsub.poll($1::text, $2::bigint, '0', $3::boolean)"

// Poll consumes at most limit events in a transaction of the caller's: they are
// consumed if it commits, and come again if it rolls back. It does not wait, and
// does not try again. [Subscription.HandleTx] is the loop around it.
func (s *Subscription) Poll(ctx context.Context, tx pgx.Tx, limit int) ([]Event, error) {
	events, err := s.poll(ctx, tx, limit, true)
	if err != nil {
		return nil, s.failed("poll", err)
	}
	return events, nil
}

// poll asks for events; without consume it only looks at them.
func (s *Subscription) poll(ctx context.Context, on querier, limit int, consume bool) ([]Event, error) {
	rows, err := on.Query(ctx, pollSQL, pgx.QueryExecModeExec, s.name, int64(limit), consume)
	if err != nil {
		return nil, err
	}
	events, err := pgx.CollectRows(rows, scanEvent)
	if err != nil {
		return nil, err
	}
	if hook := s.client.options.Hooks.Received; hook != nil && len(events) > 0 {
		hook(s.name, events)
	}
	return events, nil
}

func scanEvent(row pgx.CollectableRow) (Event, error) {
	var (
		seq              int64
		channel, payload *string
		pid              *int32
		relayedAt        *time.Time
		lost             *int64
	)
	if err := row.Scan(&seq, &channel, &payload, &pid, &relayedAt, &lost); err != nil {
		return nil, err
	}
	if lost != nil {
		return &Gap{Seq: seq, Lost: *lost}, nil
	}
	message := &Message{Seq: seq}
	if channel != nil {
		message.Channel = *channel
	}
	if payload != nil {
		message.Payload = *payload
	}
	if pid != nil {
		message.PID = *pid
	}
	if relayedAt != nil {
		message.RelayedAt = *relayedAt
	}
	return message, nil
}

// Ack consumes all events up to and including the one with that number, and
// returns how many that were. The loops do so themselves.
func (s *Subscription) Ack(ctx context.Context, seq int64) (int64, error) {
	var consumed int64
	err := s.client.pool.QueryRow(ctx, "SELECT pgpubsub.ack($1::text, $2::bigint)", pgx.QueryExecModeExec, s.name, seq).Scan(&consumed)
	if err != nil {
		return 0, s.failed("ack", err)
	}
	if hook := s.client.options.Hooks.Consumed; hook != nil {
		hook(s.name, consumed)
	}
	return consumed, nil
}

func (s *Subscription) failed(what string, err error) error {
	return fmt.Errorf("pgpubsub: %s %q: %w", what, s.name, err)
}

// discard is a slog.Handler for who wants no log.
type discard struct{}

func (discard) Enabled(context.Context, slog.Level) bool  { return false }
func (discard) Handle(context.Context, slog.Record) error { return nil }
func (d discard) WithAttrs([]slog.Attr) slog.Handler      { return d }
func (d discard) WithGroup(string) slog.Handler           { return d }
