// Package steps does the steps that are read from stdin; see the file steps.
package steps

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Timeout is for what must come.
const Timeout = 60 * time.Second

// Notify has two parameters.
const Notify = "SELECT pg_notify($1, $2)"

// Heard is a notification.
type Heard struct {
	Own              bool
	Channel, Payload string
}

func (h Heard) String() string {
	who := "other"
	if h.Own {
		who = "own"
	}
	return who + " " + h.Channel + " " + h.Payload
}

// A Session of a driver.
type Session interface {
	Close() error
	PID() uint32 // 0: the driver does not know it
	Run(sql string) error
	Listen(name string) error
	Value(sql string) (string, error)
	Notify(channel, payload string) error
	Binary(channel, payload string) error
	Prepared(count int, channel, payload string) error
	Begin() error
	Commit() error
	Rollback() error
	Alive() error
	Cancel() error
	Reset() error
	Hear(count int) ([]Heard, error)
}

// A Driver makes sessions.
type Driver struct {
	Connect func(port string) (Session, error)
	Extras  func(listener, other Session) ([]string, error)
	Code    func(err error) string
}

func step(driver Driver, sessions map[string]Session, words []string) (said []string, err error) {
	action := words[0]
	switch action {
	case "channel":
		return nil, nil
	case "extras":
		said, err = driver.Extras(sessions["listener"], sessions["other"])
		for i := range said {
			said[i] = "ok " + said[i]
		}
		return said, err
	case "connect":
		port := os.Getenv("PGPORT")
		if words[1] == "other" {
			port = os.Getenv("OTHER_PORT")
		}
		sessions[words[1]], err = driver.Connect(port)
		return []string{"ok"}, err
	}
	session := sessions[words[1]]
	said = []string{"ok"}
	switch action {
	case "close":
		err = session.Close()
	case "pid":
		var value string
		value, err = session.Value("SELECT pg_backend_pid()")
		if pid := session.PID(); pid == 0 || value == strconv.Itoa(int(pid)) {
			said = []string{"own"}
		}
	case "run":
		err = session.Run(words[2])
	case "listen":
		err = session.Listen(words[2])
	case "value":
		var value string
		value, err = session.Value(words[2])
		said = []string{value}
	case "notify":
		err = session.Notify(words[2], words[3])
	case "binary":
		err = session.Binary(words[2], words[3])
	case "prepared":
		count, _ := strconv.Atoi(words[2])
		err = session.Prepared(count, words[3], words[4])
	case "hear":
		count, _ := strconv.Atoi(words[2])
		var heard []Heard
		heard, err = session.Hear(count)
		said = nil
		for _, h := range heard {
			said = append(said, h.String())
		}
	case "begin":
		err = session.Begin()
	case "commit":
		err = session.Commit()
	case "rollback":
		err = session.Rollback()
	case "alive":
		err = session.Alive()
	case "cancel":
		err = session.Cancel()
	case "reset":
		err = session.Reset()
	default:
		err = fmt.Errorf("unknown: %s", action)
	}
	return said, err
}

// Main does all steps.
func Main(driver Driver) {
	sessions := map[string]Session{}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		fmt.Println(in.Text())
		said, err := step(driver, sessions, strings.Split(in.Text(), "\t"))
		if err != nil {
			said = []string{"error " + driver.Code(err)}
		}
		for _, line := range said {
			fmt.Println("= " + line)
		}
	}
}
