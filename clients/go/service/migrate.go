package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationLock keeps two instances that start from migrating at the same time.
const migrationLock = 0x706770756273 // "pgpubs"

// migrate brings the database to where this program wants it: the extension, the
// migrations that were not applied yet, in the order of their names, and the
// triggers that publish the table's changes. All of it, or nothing.
func migrate(ctx context.Context, pool *pgxpool.Pool, channel string, log *slog.Logger) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, sql := range []string{
			fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", migrationLock),
			// only who may create it needs to, and only where it is missing
			`DO $$ BEGIN
				IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgpubsub') THEN
					CREATE EXTENSION pgpubsub;
				END IF;
			END $$`,
			`CREATE TABLE IF NOT EXISTS job_migration (
				name text PRIMARY KEY,
				applied_at timestamptz NOT NULL DEFAULT now()
			)`,
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		if err := applyMigrations(ctx, tx, log); err != nil {
			return err
		}
		// does nothing where exactly these triggers stand
		_, err := tx.Exec(ctx, "SELECT pgpubsub.attach('job', channel => $1::text)", pgx.QueryExecModeExec, channel)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func applyMigrations(ctx context.Context, tx pgx.Tx, log *slog.Logger) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	for _, name := range names {
		tag, err := tx.Exec(ctx, "INSERT INTO job_migration (name) VALUES ($1::text) ON CONFLICT DO NOTHING",
			pgx.QueryExecModeExec, name)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			continue
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, string(text)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		log.Info("migration applied", "name", name)
	}
	return nil
}
