// Command libpq does the steps with lib/pq: on a connection that has a handler of
// notifications, and at the end with its Listener.
package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/lib/pq"
	"pgpubsub/drivers/steps"
)

var background = context.Background()

type session struct {
	port  string
	db    *sql.DB
	conn  *sql.Conn
	pid   int
	heard []steps.Heard
}

func connect(port string) (steps.Session, error) {
	s := &session{port: port}
	connector, err := pq.NewConnector("port=" + port)
	if err != nil {
		return nil, err
	}
	s.db = sql.OpenDB(pq.ConnectorWithNotificationHandler(connector, func(n *pq.Notification) {
		s.heard = append(s.heard, steps.Heard{Own: n.BePid == s.pid, Channel: n.Channel, Payload: n.Extra})
	}))
	if s.conn, err = s.db.Conn(background); err != nil {
		return nil, err
	}
	return s, s.conn.QueryRowContext(background, "SELECT pg_backend_pid()").Scan(&s.pid)
}

func (s *session) Close() error {
	if err := s.conn.Close(); err != nil {
		return err
	}
	return s.db.Close()
}

func (s *session) PID() uint32 { return 0 }

func (s *session) Run(text string) error {
	_, err := s.conn.ExecContext(background, text)
	return err
}

func (s *session) Listen(name string) error { return s.Run("LISTEN " + pq.QuoteIdentifier(name)) }

func (s *session) Value(text string) (value string, err error) {
	err = s.conn.QueryRowContext(background, text).Scan(&value)
	return value, err
}

func (s *session) Notify(channel, payload string) error {
	_, err := s.conn.ExecContext(background, steps.Notify, channel, payload)
	return err
}

func (s *session) Binary(channel, payload string) error { return s.Notify(channel, payload) }

func (s *session) Prepared(count int, channel, payload string) error {
	statement, err := s.conn.PrepareContext(background, steps.Notify)
	if err != nil {
		return err
	}
	for i := 1; i <= count; i++ {
		if _, err := statement.Exec(channel, payload+strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return statement.Close()
}

func (s *session) Begin() error    { return s.Run("BEGIN") }
func (s *session) Commit() error   { return s.Run("COMMIT") }
func (s *session) Rollback() error { return s.Run("ROLLBACK") }
func (s *session) Alive() error    { return s.conn.PingContext(background) }

// Cancel: it sends a request when the context of what runs ends; nothing runs.
func (s *session) Cancel() error { return nil }
func (s *session) Reset() error  { return s.Run("DISCARD ALL") }

func (s *session) Hear(count int) ([]steps.Heard, error) {
	deadline := time.Now().Add(steps.Timeout)
	for len(s.heard) < count && time.Now().Before(deadline) {
		if err := s.Run(""); err != nil {
			return nil, err
		}
	}
	heard := s.heard
	s.heard = nil
	return heard, nil
}

func extras(_, other steps.Session) ([]string, error) {
	s := other.(*session)
	events := make(chan pq.ListenerEventType, 10)
	listener := pq.NewListener("port="+s.port, 100*time.Millisecond, time.Second,
		func(event pq.ListenerEventType, err error) { events <- event })
	if err := listener.Listen("Any Name"); err != nil {
		return nil, err
	}
	if event := <-events; event != pq.ListenerEventConnected {
		return nil, fmt.Errorf("event %d", event)
	}
	again := listener.Listen("Any Name")
	if err := listener.Ping(); err != nil {
		return nil, err
	}
	if err := s.Notify("Any Name", "it's"); err != nil {
		return nil, err
	}
	n := <-listener.Notify
	lines := []string{fmt.Sprintf("Listener: %s %s; again: %v", n.Channel, n.Extra, again)}
	if err := listener.UnlistenAll(); err != nil {
		return nil, err
	}
	if err := listener.Close(); err != nil {
		return nil, err
	}

	tx, err := s.conn.BeginTx(background, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(steps.Notify, "drivers_end", "x"); err != nil {
		return nil, err
	}
	return append(lines, "a serializable transaction"), tx.Commit()
}

func main() {
	steps.Main(steps.Driver{Connect: connect, Extras: extras, Code: func(err error) string {
		var e *pq.Error
		if errors.As(err, &e) {
			return string(e.Code)
		}
		if errors.Is(err, driver.ErrBadConn) {
			return "bad connection"
		}
		return err.Error()
	}})
}
