// Command pgx does the steps with pgx 5.
package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgpubsub/drivers/steps"
)

var background = context.Background()

type session struct {
	conn     *pgx.Conn
	tx       pgx.Tx
	prepared int
}

func connect(port string) (steps.Session, error) {
	// as many do who may be given a standby
	conn, err := pgx.Connect(background, "port="+port+" target_session_attrs=read-write")
	return &session{conn: conn}, err
}

func (s *session) Close() error { return s.conn.Close(background) }
func (s *session) PID() uint32  { return s.conn.PgConn().PID() }

func (s *session) Run(sql string) error {
	_, err := s.conn.Exec(background, sql)
	return err
}

func (s *session) Listen(name string) error {
	return s.Run("LISTEN " + pgx.Identifier{name}.Sanitize())
}

func (s *session) Value(sql string) (string, error) {
	var value any
	err := s.conn.QueryRow(background, sql).Scan(&value)
	return fmt.Sprint(value), err
}

func (s *session) Notify(channel, payload string) error {
	_, err := s.conn.Exec(background, steps.Notify, channel, payload)
	return err
}

func (s *session) Binary(channel, payload string) error {
	formats := []int16{1, 1}
	values := [][]byte{[]byte(channel), []byte(payload)}
	return s.conn.PgConn().ExecParams(background, steps.Notify, values, nil, formats, []int16{1}).Read().Err
}

func (s *session) Prepared(count int, channel, payload string) error {
	s.prepared++
	name := fmt.Sprintf("statement %d", s.prepared)
	if _, err := s.conn.Prepare(background, name, steps.Notify); err != nil {
		return err
	}
	for i := 1; i <= count; i++ {
		if _, err := s.conn.Exec(background, name, channel, payload+strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) Begin() (err error) {
	s.tx, err = s.conn.Begin(background)
	return err
}

func (s *session) Commit() error   { return s.tx.Commit(background) }
func (s *session) Rollback() error { return s.tx.Rollback(background) }
func (s *session) Alive() error    { return s.conn.Ping(background) }
func (s *session) Cancel() error   { return s.conn.PgConn().CancelRequest(background) }

// Reset forgets the statements here too.
func (s *session) Reset() error {
	if err := s.conn.DeallocateAll(background); err != nil {
		return err
	}
	return s.Run("DISCARD ALL")
}

func (s *session) Hear(count int) (heard []steps.Heard, err error) {
	ctx, cancel := context.WithTimeout(background, steps.Timeout)
	defer cancel()
	for len(heard) < count && err == nil {
		var n *pgconn.Notification
		if n, err = s.conn.WaitForNotification(ctx); err == nil {
			heard = append(heard, steps.Heard{Own: n.PID == s.PID(), Channel: n.Channel, Payload: n.Payload})
		}
	}
	return heard, err
}

// Each way in which it sends a query.
func extras(listener, other steps.Session) ([]string, error) {
	conn := other.(*session).conn
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		if _, err := conn.Exec(background, steps.Notify, mode, "drivers_end", mode.String()); err != nil {
			return nil, err
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(steps.Notify, "drivers_end", "in a batch")
	batch.Queue("SELECT 1")
	if err := conn.SendBatch(background, batch).Close(); err != nil {
		return nil, err
	}
	options := pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable}
	err := pgx.BeginTxFunc(background, conn, options, func(tx pgx.Tx) error {
		if _, err := tx.Exec(background, steps.Notify, "drivers_end", "serializable"); err != nil {
			return err
		}
		nested, err := tx.Begin(background)
		if err != nil {
			return err
		}
		if _, err := nested.Exec(background, steps.Notify, "drivers_end", "no"); err != nil {
			return err
		}
		return nested.Rollback(background)
	})
	if err != nil {
		return nil, err
	}
	heard, err := listener.Hear(7)
	return []string{fmt.Sprint(heard)}, err
}

func main() {
	steps.Main(steps.Driver{Connect: connect, Extras: extras, Code: func(err error) string {
		var e *pgconn.PgError
		if errors.As(err, &e) {
			return e.Code
		}
		return err.Error()
	}})
}
