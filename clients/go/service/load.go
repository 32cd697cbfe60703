package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	pgpubsub "github.com/pgpubsub/pgpubsub/clients/go"
)

// A loadPlan is what the load's options say.
type loadPlan struct {
	rate          int
	concurrency   int
	duration      time.Duration
	subscriptions int
	idle          int
	poolSize      int
	maxWaiting    int
	wait          time.Duration
	batch         int
	patience      time.Duration
	native        bool
	listeners     int
	durable       bool
}

func parsePlan(args []string, out io.Writer) (*loadPlan, error) {
	p := new(loadPlan)
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&p.rate, "rate", 300, "changes per second of all writers together; 0: as many as they can")
	flags.IntVar(&p.concurrency, "concurrency", 4, "writers, each with a connection")
	flags.DurationVar(&p.duration, "duration", 10*time.Second, "how long they write")
	flags.IntVar(&p.subscriptions, "subscriptions", 1, "subscriptions that poll, each with a consumer")
	flags.IntVar(&p.idle, "idle", 0, "further subscriptions, for which there is never an event")
	flags.IntVar(&p.poolSize, "pool", 4, "connections of the pool that these share")
	flags.IntVar(&p.maxWaiting, "waiting", 0, "how many of them wait at the same time; 0: the client's default")
	flags.DurationVar(&p.wait, "wait", 0, "how long one asks the server to wait; 0: the client's default")
	flags.IntVar(&p.batch, "batch", 0, "events that are fetched at a time; 0: the client's default")
	flags.DurationVar(&p.patience, "patience", 10*time.Second, "for how long without an event one waits for those that are missing")
	flags.BoolVar(&p.native, "native", true, "listen with LISTEN, too")
	flags.IntVar(&p.listeners, "listeners", 1, "sessions that LISTEN, and as many at the gateway, if there is one")
	flags.BoolVar(&p.durable, "durable", false, "make the channel durable (it is left so)")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("load: what is %q?", flags.Arg(0))
	}
	if p.concurrency < 1 || p.duration <= 0 || p.subscriptions < 0 || p.idle < 0 || p.listeners < 0 || p.poolSize < 1 || p.rate < 0 {
		return nil, errors.New("load: concurrency, duration and pool have to be more than 0, the others not less")
	}
	return p, nil
}

// The changes that are made to each job.
var loadOps = [...]struct {
	op  pgpubsub.Op
	sql string
}{
	{pgpubsub.Insert, "INSERT INTO job (id, kind, state) VALUES ($1, 'load', 'new')"},
	{pgpubsub.Update, "UPDATE job SET state = 'done', updated_at = now() WHERE id = $1"},
	{pgpubsub.Delete, "DELETE FROM job WHERE id = $1"},
}

// load makes changes, receives them in each way there is, and prints a table.
func load(ctx context.Context, config *config, args []string, out io.Writer) error {
	plan, err := parsePlan(args, out)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	l := &loadTest{plan: plan, config: config, base: time.Now().UnixNano(), begin: time.Now()}
	return l.run(ctx, out)
}

// A loadTest is one run. A job's number n is its id less base; the change k of
// it has the number n * len(loadOps) + k.
type loadTest struct {
	plan   *loadPlan
	config *config
	base   int64
	begin  time.Time

	jobs    atomic.Int64
	started sync.Map // change number to when its statement was sent, for those that succeeded
	written atomic.Int64
	failed  atomic.Int64

	firstWrite, lastWrite time.Time
	statements            []time.Duration
	statementsLock        sync.Mutex
}

func (l *loadTest) run(ctx context.Context, out io.Writer) error {
	writers, err := newPool(ctx, l.config.databaseURL, l.plan.concurrency)
	if err != nil {
		return err
	}
	defer writers.Close()
	if l.plan.durable {
		if _, err := writers.Exec(ctx, "SELECT pgpubsub.set_durable($1::text)", pgx.QueryExecModeExec, l.config.channel); err != nil {
			return err
		}
	}

	pollers, err := newPool(ctx, l.config.databaseURL, l.plan.poolSize)
	if err != nil {
		return err
	}
	// returns when the queries that were given up are cancelled
	defer pollers.Close()
	receiving, stop := context.WithCancel(ctx)
	defer stop()
	receivers, err := l.startReceivers(receiving, pollers)
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "%d writers, %s changes/s, %v; %d subscriptions, and %d idle ones, over a pool of %d\n",
		l.plan.concurrency, rateText(l.plan.rate), l.plan.duration, l.plan.subscriptions, l.plan.idle, l.plan.poolSize)
	l.write(ctx, writers)
	l.settle(ctx, receivers)
	stop()
	for _, r := range receivers {
		if err := r.wait(); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	l.print(out, receivers)
	if failed := l.failed.Load(); failed > 0 {
		return fmt.Errorf("%d changes could not be written", failed)
	}
	return ctx.Err()
}

func rateText(rate int) string {
	if rate == 0 {
		return "as many as possible"
	}
	return fmt.Sprint(rate)
}

func newPool(ctx context.Context, url string, size int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(size)
	// prepares nothing, so that a pooler may stand between
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	return pgxpool.NewWithConfig(ctx, config)
}

// write changes jobs for as long as the plan says.
func (l *loadTest) write(ctx context.Context, pool *pgxpool.Pool) {
	l.firstWrite = time.Now()
	end := l.firstWrite.Add(l.plan.duration)
	var pace atomic.Int64
	var group sync.WaitGroup
	for range l.plan.concurrency {
		group.Add(1)
		go func() {
			defer group.Done()
			for ctx.Err() == nil && time.Now().Before(end) {
				l.writeJob(ctx, pool, &pace)
			}
		}()
	}
	group.Wait()
	l.lastWrite = time.Now()
}

// writeJob makes the changes of one job, each in its turn.
func (l *loadTest) writeJob(ctx context.Context, pool *pgxpool.Pool, pace *atomic.Int64) {
	job := l.jobs.Add(1) - 1
	for k, op := range loadOps {
		if l.plan.rate > 0 {
			turn := time.Duration(pace.Add(1)-1) * time.Second / time.Duration(l.plan.rate)
			select {
			case <-time.After(time.Until(l.firstWrite.Add(turn))):
			case <-ctx.Done():
				return
			}
		}
		// known before its event can be
		number, sent := job*int64(len(loadOps))+int64(k), time.Now()
		l.started.Store(number, sent)
		if _, err := pool.Exec(ctx, op.sql, l.base+job); err != nil {
			l.started.Delete(number)
			if ctx.Err() == nil && l.failed.Add(1) == 1 {
				fmt.Fprintln(os.Stderr, "service: a change could not be written:", err)
			}
			return
		}
		l.written.Add(1)
		took := time.Since(sent)
		l.statementsLock.Lock()
		l.statements = append(l.statements, took)
		l.statementsLock.Unlock()
	}
}

// settle waits until each receiver has all that was written, or has had nothing
// new for the plan's patience.
func (l *loadTest) settle(ctx context.Context, receivers []*receiver) {
	progress, before := time.Now(), int64(-1)
	for ctx.Err() == nil {
		missing, sum := false, int64(0)
		for _, r := range receivers {
			if r.name == wayIdle {
				continue
			}
			received := r.received()
			sum += received
			missing = missing || received < l.written.Load()
		}
		if !missing {
			return
		}
		if sum != before {
			progress, before = time.Now(), sum
		}
		if time.Since(progress) > l.plan.patience {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond): // between two looks
		case <-ctx.Done():
		}
	}
}

// wayIdle is the way of receivers that get nothing, and are in no table.
const wayIdle = "idle"

// A receiver gets changes in one way.
type receiver struct {
	name string

	mu        sync.Mutex
	got       map[int64]bool
	late      []time.Duration
	last      time.Time
	duplicate int64
	gaps      int64

	done chan struct{}
	err  error
}

// startReceivers starts all, and returns when each would get what is written now.
func (l *loadTest) startReceivers(ctx context.Context, pool *pgxpool.Pool) ([]*receiver, error) {
	var receivers []*receiver
	start := func(name string, receive func(r *receiver) error, end func()) {
		r := &receiver{name: name, got: make(map[int64]bool), done: make(chan struct{})}
		receivers = append(receivers, r)
		go func() {
			defer close(r.done)
			err := receive(r)
			if end != nil {
				end()
			}
			if ctx.Err() == nil {
				r.err = err
			}
		}()
	}
	if err := l.startPolling(ctx, pool, start); err != nil {
		return nil, fmt.Errorf("poll: %w", err)
	}
	for _, way := range []struct {
		name, url string
		wanted    bool
	}{
		{"LISTEN", l.config.listenURL, l.plan.native},
		{"gateway", l.config.gatewayURL, l.config.gatewayURL != ""},
	} {
		if !way.wanted {
			continue
		}
		for range l.plan.listeners {
			conn, err := listenOn(ctx, way.url, l.config.channel)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way.name, err)
			}
			start(way.name, func(r *receiver) error { return l.listen(ctx, conn, r) },
				func() { _ = conn.Close(context.WithoutCancel(ctx)) })
		}
	}
	return receivers, nil
}

type startReceiver func(name string, receive func(r *receiver) error, end func())

// startPolling makes the plan's subscriptions, with a consumer for each over one
// pool. They go with their consumers.
func (l *loadTest) startPolling(ctx context.Context, pool *pgxpool.Pool, start startReceiver) error {
	client := pgpubsub.New(pool, pgpubsub.Options{
		Wait: l.plan.wait, BatchSize: l.plan.batch, MaxWaiting: l.plan.maxWaiting,
	})
	for i := range l.plan.subscriptions + l.plan.idle {
		channel, way := l.config.channel, "poll"
		if i >= l.plan.subscriptions {
			channel, way = l.config.channel+"_idle", wayIdle
		}
		name := fmt.Sprintf("%s_load_%d_%d", l.config.channel, os.Getpid(), i)
		subscription, err := client.Subscribe(ctx, name, []string{channel}, pgpubsub.SubscribeOptions{})
		if err != nil {
			return err
		}
		start(way, func(r *receiver) error { return l.poll(ctx, subscription, r) }, func() {
			_, _ = client.Unsubscribe(context.WithoutCancel(ctx), name)
		})
	}
	return nil
}

func (l *loadTest) poll(ctx context.Context, subscription *pgpubsub.Subscription, r *receiver) error {
	for batch, err := range subscription.Batches(ctx, l.plan.batch) {
		if err != nil {
			return err
		}
		now := time.Now()
		for _, event := range batch {
			switch event := event.(type) {
			case *pgpubsub.Message:
				l.note(r, event, now)
			case *pgpubsub.Gap:
				r.mu.Lock()
				r.gaps++
				r.mu.Unlock()
			}
		}
	}
	return nil
}

func listenOn(ctx context.Context, url, channel string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize())
	return conn, err
}

func (l *loadTest) listen(ctx context.Context, conn *pgx.Conn, r *receiver) error {
	for {
		notification, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		l.note(r, &pgpubsub.Message{Payload: notification.Payload}, time.Now())
	}
}

// note counts a change that this test has made.
func (l *loadTest) note(r *receiver, message *pgpubsub.Message, now time.Time) {
	change, err := message.Change()
	if err != nil {
		return
	}
	var key struct {
		ID int64 `json:"id"`
	}
	if err := change.Key.Decode(&key); err != nil {
		return
	}
	for k, op := range loadOps {
		if change.Op != op.op {
			continue
		}
		number := (key.ID-l.base)*int64(len(loadOps)) + int64(k)
		sent, ok := l.started.Load(number)
		if !ok {
			return // somebody else's
		}
		r.note(number, now.Sub(sent.(time.Time)), now)
	}
}

func (r *receiver) note(number int64, late time.Duration, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got[number] {
		r.duplicate++
		return
	}
	r.got[number] = true
	r.late = append(r.late, late)
	r.last = now
}

func (r *receiver) received() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int64(len(r.got))
}

func (r *receiver) wait() error {
	<-r.done
	return r.err
}
