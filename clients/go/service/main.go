// Command service watches a table of jobs.
//
//	go run .            log each change of the table until SIGTERM or SIGINT
//	go run . load       change the table, and show what arrived, and how late
//	go run . migrate    create what it needs in the database, as the others do
//
// Configuration is by the environment, or by a file .env:
//
//	DATABASE_URL          the database; may lead through a pooler
//	PUB_SUB_CHANNEL       the channel of the table's changes; job
//	PUB_SUB_SUBSCRIPTION  whose position it is: one for each instance; job_listener
//	DEBUG                 true: pretty lines, and more of them
//	LISTEN_URL            load: the database past the pooler, for LISTEN; DATABASE_URL
//	GATEWAY_URL           load: a pgpubsub-gateway, if one runs
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	pgpubsub "github.com/pgpubsub/pgpubsub/clients/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	config, err := readConfig()
	if err != nil {
		return err
	}
	log := newLogger(config.debug, out)
	pool, err := pgxpool.New(ctx, config.databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()

	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "", "migrate", "load":
	default:
		return fmt.Errorf("no command %q: want none, migrate or load", command)
	}
	if err := migrate(ctx, pool, config.channel, log); err != nil {
		return err
	}
	switch command {
	case "":
		return listen(ctx, config, pool, log, out)
	case "load":
		return load(ctx, config, args[1:], out)
	}
	return nil
}

// newLogger logs JSON, a line each, for whoever collects it; with DEBUG, text for
// who looks at it.
func newLogger(debug bool, out io.Writer) *slog.Logger {
	if debug {
		return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewJSONHandler(out, nil))
}

// listen logs each change until the context ends, which is no error.
func listen(ctx context.Context, config *config, pool *pgxpool.Pool, log *slog.Logger, out io.Writer) error {
	client := pgpubsub.New(pool, pgpubsub.Options{Logger: log})
	subscription, err := client.Subscribe(ctx, config.subscription, []string{config.channel}, pgpubsub.SubscribeOptions{})
	if err != nil {
		return err
	}
	log.Info("listening", "channel", config.channel, "subscription", config.subscription)
	mux := pgpubsub.NewMux()
	mux.HandleGap(func(_ context.Context, event pgpubsub.Event) error {
		log.Warn("changes are missing, read the table again", "lost", event.(*pgpubsub.Gap).Lost)
		return nil
	})
	mux.Handle(config.channel, func(_ context.Context, event pgpubsub.Event) error {
		return logChange(event.(*pgpubsub.Message), config.debug, log, out)
	})
	err = subscription.Handle(ctx, mux.Serve)
	if errors.Is(err, context.Canceled) {
		log.Info("stopped")
		return nil
	}
	return err
}

// logChange writes a line for a message, with debug an indented object below it.
func logChange(message *pgpubsub.Message, debug bool, log *slog.Logger, out io.Writer) error {
	change, err := message.Change()
	if errors.Is(err, pgpubsub.ErrNotChange) {
		log.Info("message", "seq", message.Seq, "payload", message.Payload)
		return nil
	}
	if err != nil {
		return err
	}
	log.Info("change", "seq", message.Seq, "op", change.Op, "table", change.Schema+"."+change.Table,
		"key", change.Key, "changed", change.Changed)
	if !debug {
		return nil
	}
	rows := make(map[string]pgpubsub.Row)
	for name, row := range map[string]pgpubsub.Row{"new": change.New, "old": change.Old} {
		if row != nil {
			rows[name] = row
		}
	}
	text, err := json.MarshalIndent(rows, "    ", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "    %s\n", text)
	return err
}
