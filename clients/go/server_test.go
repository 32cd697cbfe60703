package pgpubsub_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	pgpubsub "github.com/pgpubsub/pgpubsub/clients/go"
)

// The tests that need a server have it from scripts/client-server, which says
// where it is and gives them a command to end and start it.
func control(t *testing.T, what string) {
	t.Helper()
	out, err := exec.Command(os.Getenv("CLIENT_SERVER"), what).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", what, err, out)
	}
}

// A world is a way to reach the server, with names that no other test has.
type world struct {
	*testing.T
	ctx     context.Context
	admin   *pgxpool.Pool // past the pooler
	pool    *pgxpool.Pool
	client  *pgpubsub.Client
	channel string
	sub     string
	retries atomic.Int64
}

var worlds atomic.Int64

// bothWays runs a test directly and through PgBouncer in transaction mode.
func bothWays(t *testing.T, test func(w *world)) {
	if os.Getenv("CLIENT_SERVER") == "" {
		t.Skip("needs the server of scripts/client-server")
	}
	for _, way := range []struct{ name, port string }{
		{"direct", os.Getenv("PGPORT")},
		{"bouncer", os.Getenv("BOUNCER_PORT")},
	} {
		t.Run(way.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			w := &world{T: t, ctx: ctx}
			w.admin = newPool(t, os.Getenv("PGPORT"), 4)
			w.pool = newPool(t, way.port, 6)
			w.channel = fmt.Sprintf("go_%d_%d", time.Now().UnixNano(), worlds.Add(1))
			w.sub = w.channel + "_sub"
			w.client = pgpubsub.New(w.pool, w.options())
			t.Cleanup(func() { w.exec("SELECT pgpubsub.unsubscribe($1)", w.sub) })
			// before the pools are closed, which waits for their connections
			t.Cleanup(cancel)
			test(w)
		})
	}
}

func (w *world) options() pgpubsub.Options {
	return pgpubsub.Options{
		MaxDelay: time.Second,
		Hooks: pgpubsub.Hooks{
			Retry: func(_ string, err error, _ time.Duration) {
				w.Logf("retry: %v", err)
				w.retries.Add(1)
			},
		},
	}
}

func newPool(t *testing.T, port string, size int32) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(fmt.Sprintf("host=%s port=%s user=%s dbname=%s",
		os.Getenv("PGHOST"), port, os.Getenv("PGUSER"), os.Getenv("PGDATABASE")))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = size
	// for the tests' own statements; the package does not depend on it
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// exec runs a statement past the pooler; once more, if a restart has closed the
// connection that the pool had kept.
func (w *world) exec(sql string, args ...any) {
	w.Helper()
	var err error
	for range 10 {
		if _, err = w.admin.Exec(context.Background(), sql, args...); err == nil {
			return
		}
		w.admin.Reset()
	}
	w.Fatalf("%s: %v", sql, err)
}

func (w *world) value(sql string, args ...any) int64 {
	w.Helper()
	var value int64
	if err := w.admin.QueryRow(w.ctx, sql, args...).Scan(&value); err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
	return value
}

func (w *world) subscribe(options pgpubsub.SubscribeOptions) *pgpubsub.Subscription {
	w.Helper()
	sub, err := w.client.Subscribe(w.ctx, w.sub, []string{w.channel}, options)
	if err != nil {
		w.Fatal(err)
	}
	return sub
}

// publish publishes the numbers from first to last, each in its transaction.
func (w *world) publish(first, last int) {
	w.Helper()
	for i := first; i <= last; i++ {
		w.exec("SELECT pgpubsub.publish($1::text, $2::text)", w.channel, fmt.Sprint(i))
	}
}

// until waits for a state.
func (w *world) until(what string, reached func() bool) {
	w.Helper()
	for !reached() {
		if w.ctx.Err() != nil {
			w.Fatalf("never came to pass: %s", what)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

// pending waits until that many events can be read.
func (w *world) pending(count int64) {
	w.Helper()
	w.until(fmt.Sprintf("%d events are there", count), func() bool {
		return w.value("SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = $1", w.sub) == count
	})
}

// waiting tells whether somebody waits for the subscription.
func (w *world) waiting(sub string) bool {
	return w.value("SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = $1 AND state = 'waiting'", sub) > 0
}

func payload(event pgpubsub.Event) string {
	switch event := event.(type) {
	case *pgpubsub.Message:
		return event.Payload
	case *pgpubsub.Gap:
		return fmt.Sprintf("gap %d", event.Lost)
	}
	return "?"
}

// take reads that many events by the iterator, and acknowledges all but the last.
func (w *world) take(sub *pgpubsub.Subscription, count int) []string {
	w.Helper()
	var taken []string
	for event, err := range sub.Events(w.ctx) {
		if err != nil {
			w.Fatalf("after %d events: %v", len(taken), err)
		}
		taken = append(taken, payload(event))
		if len(taken) <= 10 {
			w.Logf("%d: %.40s", event.Sequence(), payload(event))
		}
		if len(taken) == count {
			break
		}
	}
	return taken
}

func (w *world) equal(got, want any) {
	w.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.Fatalf("got %.300s, want %.300s", fmt.Sprint(got), fmt.Sprint(want))
	}
}

func TestEvents(t *testing.T) {
	bothWays(t, func(w *world) {
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		w.publish(1, 3)
		w.equal(w.take(sub, 2), "[1 2]")
		// the loop was left at 2, so only 1 was acknowledged
		w.equal(w.take(sub, 2), "[2 3]")

		text := strings.Repeat("ünïcödé ☃ 𝄞 \\ ' \" \n", 20000)
		w.exec("SELECT pgpubsub.publish($1::text, $2::text)", w.channel, text)
		w.equal(w.take(sub, 2)[1], text)
	})
}

func TestChange(t *testing.T) {
	for _, format := range []string{"plain", "cloudevents", "debezium"} {
		t.Run(format, func(t *testing.T) {
			bothWays(t, func(w *world) { w.testChange(format) })
		})
	}
}

func (w *world) testChange(format string) {
	w.exec("CREATE TABLE IF NOT EXISTS go_items (id bigint PRIMARY KEY, name text, price numeric)")
	w.exec("TRUNCATE go_items")
	w.exec("SELECT pgpubsub.attach('go_items', channel => $1, format => $2)", w.channel, format)
	defer w.exec("SELECT pgpubsub.detach('go_items', channel => $1)", w.channel)
	sub := w.subscribe(pgpubsub.SubscribeOptions{})
	w.exec("INSERT INTO go_items VALUES (9007199254740993, 'Äpfel', 0.12345678901234567890)")
	w.exec("UPDATE go_items SET name = NULL")

	var changes []*pgpubsub.Change
	for event, err := range sub.Events(w.ctx) {
		if err != nil {
			w.Fatal(err)
		}
		change, err := event.(*pgpubsub.Message).Change()
		if err != nil {
			w.Fatal(err)
		}
		changes = append(changes, change)
		if len(changes) == 2 {
			break
		}
	}
	insert, update := changes[0], changes[1]
	w.equal(insert.Op, pgpubsub.Insert)
	w.equal(insert.Table, "go_items")
	w.equal(insert.Key["id"], "9007199254740993")
	w.equal(insert.New["price"], "0.12345678901234567890")
	var row struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	}
	if err := insert.New.Decode(&row); err != nil {
		w.Fatal(err)
	}
	w.equal(row, "{9007199254740993 Äpfel}")
	if format == "debezium" { // which does not tell
		w.equal(update.Changed, "[]")
	} else {
		w.equal(update.Changed, "[name]")
	}
	w.equal(update.Old, "map[name:Äpfel]")
	w.equal(update.New["name"] == nil, true)
	w.equal(insert.ID != update.ID && !update.Time.IsZero() && update.TxID > insert.TxID, true)
}

func TestHandlerThatFails(t *testing.T) {
	bothWays(t, func(w *world) {
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		w.publish(1, 4)
		boom := errors.New("boom")
		var seen []string
		for range 2 {
			err := sub.Handle(w.ctx, func(_ context.Context, event pgpubsub.Event) error {
				seen = append(seen, payload(event))
				if payload(event) == "3" {
					return boom
				}
				return nil
			})
			w.equal(errors.Is(err, boom), true)
		}
		w.equal(seen, "[1 2 3 3]")

		// a panic in the loop's body, too
		func() {
			defer func() { w.equal(recover(), "panic") }()
			for range sub.Events(w.ctx) {
				panic("panic")
			}
		}()
		w.equal(w.take(sub, 2), "[3 4]")
	})
}

func TestBatchesAndChannel(t *testing.T) {
	bothWays(t, func(w *world) {
		var received, consumed []string
		options := w.options()
		options.Hooks.Received = func(_ string, events []pgpubsub.Event) {
			for _, event := range events {
				received = append(received, payload(event))
			}
		}
		options.Hooks.Consumed = func(_ string, events int64) { consumed = append(consumed, fmt.Sprint(events)) }
		w.client = pgpubsub.New(w.pool, options)
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		w.publish(1, 7)
		w.pending(7)
		var batches []string
		for batch, err := range sub.Batches(w.ctx, 3) {
			if err != nil {
				w.Fatal(err)
			}
			first, last := payload(batch[0]), payload(batch[len(batch)-1])
			batches = append(batches, first+"-"+last)
			if last == "7" {
				break
			}
		}
		w.equal(batches, "[1-3 4-6 7-7]")
		w.equal(received, "[1 2 3 4 5 6 7]")
		w.equal(consumed, "[3 3]")
		w.publish(8, 9)
		w.pending(3)

		ctx, cancel := context.WithCancel(w.ctx)
		deliveries, result := sub.Channel(ctx)
		seven := <-deliveries
		eight := <-deliveries
		w.equal(payload(seven.Event)+payload(eight.Event), "78")
		eight.Ack() // not before 7
		seven.Ack()
		seven.Ack()
		nine := <-deliveries
		w.until("8 is acknowledged", func() bool {
			cancel()
			for range deliveries {
			}
			return w.value("SELECT pending FROM pgpubsub.stat_subscriptions WHERE subscription = $1", w.sub) == 1
		})
		nine.Ack() // too late, and does no harm
		w.equal(result(), context.Canceled)
		w.equal(w.take(sub, 1), "[9]")
	})
}

func TestGapOfAnEvictedSubscription(t *testing.T) {
	for _, onFull := range []pgpubsub.OnFull{pgpubsub.Drop, pgpubsub.Evict} {
		bothWays(t, func(w *world) {
			sub := w.subscribe(pgpubsub.SubscribeOptions{OnFull: onFull})
			w.exec("SELECT count(pgpubsub.publish($1::text, i || repeat('x', 5000))) FROM generate_series(1, 3000) AS i", w.channel)
			w.until("the last one is there", func() bool {
				return w.value("SELECT published FROM pgpubsub.stat_channels WHERE channel = $1", w.channel) == 3000
			})
			count, missing := int64(0), int64(0)
			for event, err := range sub.Events(w.ctx) {
				if err != nil {
					w.Fatal(err)
				}
				switch event := event.(type) {
				case *pgpubsub.Gap:
					w.equal(event.Known(), true)
					missing += event.Lost
				case *pgpubsub.Message:
					count++
					if strings.HasPrefix(event.Payload, "3000x") {
						// what a look has shown may be lost before it is acknowledged,
						// and is told as missing then, too
						w.equal(missing > 0 && count+missing >= 3000, true)
						return
					}
				}
			}
		})
	}
}

func TestManyEventsInOrder(t *testing.T) {
	bothWays(t, func(w *world) {
		w.exec("SELECT pgpubsub.set_durable($1::text)", w.channel)
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		go func() {
			_, _ = w.admin.Exec(w.ctx, "SELECT count(pgpubsub.publish($1::text, i::text)) FROM generate_series(1, 100000) AS i", w.channel)
		}()
		next := 1
		for batch, err := range sub.Batches(w.ctx, 1000) {
			if err != nil {
				w.Fatal(err)
			}
			for _, event := range batch {
				if payload(event) != fmt.Sprint(next) {
					w.Fatalf("got %s, want %d", payload(event), next)
				}
				next++
			}
			if next > 100000 {
				break
			}
		}
	})
}

// What may happen to a consumer that waits.
func TestFailures(t *testing.T) {
	for _, failure := range []struct {
		name    string
		gap     bool // of a channel that is not durable
		inflict func(w *world)
	}{
		{"backend", false, func(w *world) {
			w.until("the backend is gone", func() bool {
				return w.value(`SELECT count(pg_terminate_backend(pid)) FROM pgpubsub.stat_subscriptions
					WHERE subscription = $1 AND state = 'waiting'`, w.sub) > 0
			})
		}},
		{"relay", true, func(w *world) {
			pid := w.value("SELECT relay_pid FROM pgpubsub.stat_queue WHERE datname = current_database()")
			w.exec("SELECT pg_terminate_backend($1::int)", pid)
			w.until("there is another relay", func() bool {
				return w.value(`SELECT count(*) FROM pgpubsub.stat_queue WHERE relay_state = 'listening'
					AND datname = current_database() AND relay_pid <> $1`, pid) > 0
			})
		}},
		{"restart", true, func(w *world) { control(w.T, "restart"); w.relayListens() }},
		{"crash", true, func(w *world) { control(w.T, "crash"); w.relayListens() }},
		{"bouncer", false, func(w *world) { control(w.T, "bouncer-restart") }},
	} {
		t.Run(failure.name, func(t *testing.T) {
			bothWays(t, func(w *world) {
				for _, durable := range []bool{false, true} {
					sub := w.subscribe(pgpubsub.SubscribeOptions{})
					if durable {
						w.exec("SELECT pgpubsub.set_durable($1::text)", w.channel)
					}
					w.publish(1, 1)
					got := make(chan []string)
					count := 3
					if failure.gap && !durable {
						count = 4
					}
					go func() { got <- w.take(sub, count) }()
					w.until("somebody waits", func() bool { return w.waiting(w.sub) })
					failure.inflict(w)
					w.publish(2, 3)
					want := "[1 2 3]"
					if count == 4 {
						want = "[1 gap -1 2 3]"
					}
					w.equal(<-got, want)
					w.exec("SELECT pgpubsub.unsubscribe($1)", w.sub)
				}
			})
		})
	}
}

// relayListens waits for the relay of a server that has just started. What is
// published before that is a part of the gap.
func (w *world) relayListens() {
	w.admin.Reset()
	w.until("the relay listens", func() bool {
		return w.value(`SELECT count(*) FROM pgpubsub.stat_queue
			WHERE relay_state = 'listening' AND datname = current_database()`) > 0
	})
}

// Two consumers of one subscription write each event into a table in its
// transaction, while all that can happen does.
func TestExactlyOnceInTransactions(t *testing.T) {
	const count = 2000
	bothWays(t, func(w *world) {
		w.exec("DROP TABLE IF EXISTS go_results")
		w.exec("CREATE TABLE go_results (n int)")
		w.exec("SELECT pgpubsub.set_durable($1::text)", w.channel)
		options := w.options()
		options.BatchSize = 20
		w.client = pgpubsub.New(w.pool, options)
		sub := w.subscribe(pgpubsub.SubscribeOptions{})

		ctx, cancel := context.WithCancel(w.ctx)
		ended := make(chan error)
		for range 2 {
			go func() {
				ended <- sub.HandleTx(ctx, func(ctx context.Context, tx pgx.Tx, batch []pgpubsub.Event) error {
					for _, event := range batch {
						if _, err := tx.Exec(ctx, "INSERT INTO go_results VALUES ($1::text::int)", payload(event)); err != nil {
							return err
						}
					}
					return nil
				})
			}()
		}
		results := func() (sum int64) {
			if err := w.admin.QueryRow(w.ctx, "SELECT count(*) FROM go_results").Scan(&sum); err != nil {
				return -1
			}
			return sum
		}
		for i, what := range []string{"crash", "bouncer-restart", "backends", "restart"} {
			first := i * count / 4
			w.exec("SELECT count(pgpubsub.publish($1::text, i::text)) FROM generate_series($2::int, $3::int) AS i",
				w.channel, first+1, first+count/4)
			w.until("some are handled", func() bool { return results() > int64(first) })
			if what == "backends" {
				w.exec(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
					WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`)
			} else {
				control(w.T, what)
			}
			w.admin.Reset()
		}
		w.until("all are handled", func() bool { return results() >= count })
		cancel()
		for range 2 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				w.Fatal(err)
			}
		}
		w.equal(results(), count)
		w.equal(w.value("SELECT count(DISTINCT n) FROM go_results"), count)
		w.until("the server knows that none is left", func() bool {
			return w.value("SELECT count(*) FROM pgpubsub.stat_subscriptions WHERE subscription = $1 AND pending = 0", w.sub) > 0
		})
	})
}

// A consumer handles events while the server crashes and PgBouncer restarts: each
// at least once, in the order in which they were published.
func TestAtLeastOnceOverACrash(t *testing.T) {
	const count = 1000
	bothWays(t, func(w *world) {
		w.exec("SELECT pgpubsub.set_durable($1::text)", w.channel)
		options := w.options()
		options.BatchSize = 20
		w.client = pgpubsub.New(w.pool, options)
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		ctx, cancel := context.WithCancel(w.ctx)
		var seen atomic.Int64
		ended := make(chan error)
		go func() {
			ended <- sub.Handle(ctx, func(_ context.Context, event pgpubsub.Event) error {
				var n int64
				if _, err := fmt.Sscan(payload(event), &n); err != nil || n > seen.Load()+1 {
					return fmt.Errorf("%s after %d", payload(event), seen.Load())
				}
				seen.Store(max(n, seen.Load()))
				return nil
			})
		}()
		for i, what := range []string{"crash", "bouncer-restart"} {
			first := i * count / 2
			w.exec("SELECT count(pgpubsub.publish($1::text, i::text)) FROM generate_series($2::int, $3::int) AS i",
				w.channel, first+1, first+count/2)
			w.until("some are handled", func() bool { return seen.Load() > int64(first) })
			control(w.T, what)
			w.admin.Reset()
		}
		w.until("all are handled", func() bool { return seen.Load() == count })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			w.Fatal(err)
		}
	})
}

func TestHandleTxThatFails(t *testing.T) {
	bothWays(t, func(w *world) {
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		w.publish(1, 2)
		boom := errors.New("boom")
		err := sub.HandleTx(w.ctx, func(context.Context, pgx.Tx, []pgpubsub.Event) error { return boom })
		w.equal(errors.Is(err, boom), true)
		// a failed statement whose error the handler keeps to itself
		err = sub.HandleTx(w.ctx, func(ctx context.Context, tx pgx.Tx, _ []pgpubsub.Event) error {
			_, _ = tx.Exec(ctx, "SELECT 1/0")
			return nil
		})
		w.equal(err != nil, true)

		tx, err := w.pool.Begin(w.ctx)
		if err != nil {
			w.Fatal(err)
		}
		events, err := sub.Poll(w.ctx, tx, 1)
		if err != nil {
			w.Fatal(err)
		}
		w.equal(payload(events[0]), "1")
		if err := tx.Commit(w.ctx); err != nil {
			w.Fatal(err)
		}
		w.equal(w.take(sub, 1), "[2]")
	})
}

// A consumer is cancelled again and again, at any moment; none is lost, and in
// this form none comes twice.
func TestCancelLosesNothing(t *testing.T) {
	const count = 300
	bothWays(t, func(w *world) {
		options := w.options()
		options.BatchSize = 7
		w.client = pgpubsub.New(w.pool, options)
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		go func() {
			_, _ = w.admin.Exec(w.ctx, "SELECT count(pgpubsub.publish($1::text, i::text)) FROM generate_series(1, $2::int) AS i", w.channel, count)
		}()
		next, stalled := 1, 0
		for round := 0; next <= count; round++ {
			before := next
			// any moment; a later one where nothing was reached, as on a machine that
			// has other work a connection takes longer
			pause := time.Duration(round%20*(1+stalled/20)) * time.Millisecond
			ctx, cancel := context.WithTimeout(w.ctx, pause)
			err := sub.Handle(ctx, func(_ context.Context, event pgpubsub.Event) error {
				w.equal(payload(event), next)
				next++
				if next%10 == 0 {
					cancel()
				}
				return nil
			})
			cancel()
			if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) || w.ctx.Err() != nil {
				w.Fatalf("before event %d: %v", next, err)
			}
			if stalled++; next > before {
				stalled = 0
			}
		}
	})
}

// Many consumers over a small pool: all get their events, and the pool has a
// connection for others all the time.
func TestManyConsumersOverOnePool(t *testing.T) {
	const consumers = 25
	bothWays(t, func(w *world) {
		ctx, cancel := context.WithCancel(w.ctx)
		got := make(chan string)
		ended := make(chan error)
		for i := range consumers {
			name := fmt.Sprintf("%s_%d", w.sub, i)
			sub, err := w.client.Subscribe(w.ctx, name, []string{w.channel}, pgpubsub.SubscribeOptions{})
			if err != nil {
				w.Fatal(err)
			}
			defer w.exec("SELECT pgpubsub.unsubscribe($1)", name)
			mux := pgpubsub.NewMux()
			mux.Handle(w.channel, func(_ context.Context, event pgpubsub.Event) error {
				got <- name + payload(event)
				return nil
			})
			go func() { ended <- sub.Handle(ctx, mux.Serve) }()
		}
		for n := 1; n <= 3; n++ {
			if _, err := w.pool.Exec(w.ctx, "SELECT pgpubsub.publish($1::text, $2::text)", w.channel, fmt.Sprint(n)); err != nil {
				w.Fatal(err)
			}
			seen := make(map[string]bool)
			for len(seen) < consumers {
				seen[<-got] = true
			}
		}
		cancel()
		for range consumers {
			<-ended
		}
	})
}

func TestErrorsThatStay(t *testing.T) {
	bothWays(t, func(w *world) {
		for _, err := range w.client.Open("go_nosuch").Events(w.ctx) {
			w.equal(err != nil && strings.Contains(err.Error(), "go_nosuch"), true)
		}
		_, err := w.client.Subscribe(w.ctx, "", nil, pgpubsub.SubscribeOptions{})
		w.equal(err != nil, true)
		sub := w.subscribe(pgpubsub.SubscribeOptions{StartAt: pgpubsub.Oldest})
		ended := make(chan error)
		go func() {
			ended <- sub.Handle(w.ctx, func(context.Context, pgpubsub.Event) error { return nil })
		}()
		w.until("somebody waits", func() bool { return w.waiting(w.sub) })
		stood, err := w.client.Unsubscribe(w.ctx, w.sub)
		w.equal(fmt.Sprint(stood, err), "true <nil>")
		w.equal(<-ended != nil, true)
	})
}

// While another session reads the subscription, a consumer tries again.
func TestSubscriptionInUse(t *testing.T) {
	bothWays(t, func(w *world) {
		sub := w.subscribe(pgpubsub.SubscribeOptions{})
		w.publish(1, 2)
		w.pending(2)
		tx, err := w.admin.Begin(w.ctx)
		if err != nil {
			w.Fatal(err)
		}
		if _, err := sub.Poll(w.ctx, tx, 1); err != nil {
			w.Fatal(err)
		}
		batches, got := sub.Batches(w.ctx, 0), make(chan string)
		go func() {
			for batch := range batches {
				got <- payload(batch[0])
				return
			}
		}()
		w.until("it waits or has tried", func() bool {
			return w.retries.Load() > 0 || w.value(`SELECT count(*) FROM pg_stat_activity
				WHERE state = 'active' AND query LIKE 'CALL pgpubsub.wait%'`) > 0
		})
		if err := tx.Commit(w.ctx); err != nil {
			w.Fatal(err)
		}
		w.equal(<-got, "2")
	})
}
