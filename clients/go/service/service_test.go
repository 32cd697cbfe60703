package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// chdir changes the directory until the test ends.
func chdir(t *testing.T, to string) {
	t.Helper()
	from, err := os.Getwd()
	if err == nil {
		err = os.Chdir(to)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chdir(from) })
}

func TestEnvFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), ".env")
	read := func(text string) (map[string]string, error) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return readEnvFile(name)
	}
	values, err := read("# comment\n\nA=1\nexport B = two words # comment\nC='# =\"' # comment\nD=\"it's\"\nE=\nF=a#b\n")
	want := map[string]string{"A": "1", "B": "two words", "C": "# =\"", "D": "it's", "E": "", "F": "a#b"}
	if err != nil || fmt.Sprint(values) != fmt.Sprint(want) {
		t.Errorf("%q, %v", values, err)
	}
	for _, text := range []string{"A", "=1", "A B=1", "A='1", "A=\"1\" 2"} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if values, err := readEnvFile(name + "none"); values != nil || err != nil {
		t.Errorf("a file that is not there: %v, %v", values, err)
	}
}

func TestConfig(t *testing.T) {
	chdir(t, t.TempDir())
	for _, name := range []string{"DATABASE_URL", "PUB_SUB_CHANNEL", "PUB_SUB_SUBSCRIPTION", "DEBUG", "LISTEN_URL", "GATEWAY_URL"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	if _, err := readConfig(); err == nil || !strings.Contains(err.Error(), "DATABASE_URL") {
		t.Errorf("without DATABASE_URL: %v", err)
	}
	if err := os.WriteFile(".env", []byte("DATABASE_URL=postgres://file\nDEBUG=true\nPUB_SUB_CHANNEL=other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PUB_SUB_CHANNEL", "jobs")
	c, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	if want := (config{databaseURL: "postgres://file", listenURL: "postgres://file", channel: "jobs",
		subscription: "jobs_listener", debug: true}); *c != want {
		t.Errorf("got %+v", *c)
	}
	t.Setenv("DEBUG", "perhaps")
	if _, err := readConfig(); err == nil {
		t.Error("DEBUG may be anything")
	}
}

func TestPercentiles(t *testing.T) {
	var values []time.Duration
	for i := 100; i >= 1; i-- {
		values = append(values, time.Duration(i)*time.Millisecond)
	}
	for percent, want := range map[int]string{50: "50.00", 95: "95.00", 99: "99.00"} {
		if got := milliseconds(values, percent); got != want {
			t.Errorf("p%d is %s", percent, got)
		}
	}
	if got := milliseconds(values[:1], 99); got != "1.00" {
		t.Errorf("p99 of one value is %s", got)
	}
	if got := milliseconds(nil, 50); got != "-" {
		t.Errorf("p50 of none is %s", got)
	}
}

// A syncBuffer collects what a program writes while a test reads it.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func needServer(t *testing.T) {
	if os.Getenv("CLIENT_SERVER") == "" {
		t.Skip("needs the server of scripts/client-server")
	}
	chdir(t, t.TempDir())
	t.Setenv("PUB_SUB_CHANNEL", fmt.Sprintf("job_%d", time.Now().UnixNano()))
}

// until waits for a state.
func until(t *testing.T, out *syncBuffer, pattern string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	for end := time.Now().Add(time.Minute); !want.MatchString(out.String()); {
		if time.Now().After(end) {
			t.Fatalf("never said %q, but:\n%s", pattern, out)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func TestListen(t *testing.T) {
	needServer(t)
	for _, debug := range []string{"", "true"} {
		t.Setenv("DEBUG", debug)
		out, ended := new(syncBuffer), make(chan error)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { ended <- run(ctx, nil, out) }()
		until(t, out, "listening")

		conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "INSERT INTO job (id, kind) VALUES (1, 'tést'); UPDATE job SET state = 'done'; DELETE FROM job"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "SELECT pgpubsub.publish($1::text, 'hello')", pgx.QueryExecModeExec, os.Getenv("PUB_SUB_CHANNEL")); err != nil {
			t.Fatal(err)
		}
		if debug == "" {
			until(t, out, `(?s)"op":"INSERT","table":"public.job","key":{"id":1}.*"op":"UPDATE".*"changed":\["state"\].*"op":"DELETE".*"payload":"hello"`)
		} else {
			until(t, out, `(?s)op=INSERT .*"kind": "tést".*op=UPDATE .*"state": "new".*op=DELETE .*payload=hello`)
		}
		if err := conn.Close(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stopped with %v", err)
		}
		until(t, out, "stopped")
	}
}

// With SERVICE_MAIN, the test's program is the service itself.
func TestMain(m *testing.M) {
	if os.Getenv("SERVICE_MAIN") != "" {
		os.Args = os.Args[:1]
		main()
		return
	}
	os.Exit(m.Run())
}

func TestSIGTERM(t *testing.T) {
	needServer(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := new(syncBuffer)
	service := exec.Command(program)
	service.Env = append(os.Environ(), "SERVICE_MAIN=1")
	service.Stdout, service.Stderr = out, out
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, out, "listening")
	if err := service.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := service.Wait(); err != nil || !strings.Contains(out.String(), "stopped") {
		t.Errorf("ended with %v after\n%s", err, out)
	}
}

func TestLoad(t *testing.T) {
	needServer(t)
	for _, args := range [][]string{
		{"load", "-duration", "500ms", "-rate", "200"},
		{"load", "-duration", "500ms", "-rate", "100", "-subscriptions", "10", "-pool", "2", "-durable", "-native=false"},
	} {
		out := new(syncBuffer)
		if err := run(context.Background(), args, out); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, line := range strings.Split(out.String(), "\n") {
			fields := strings.Fields(line)
			if len(fields) < 11 || (fields[0] != "poll" && fields[0] != "LISTEN") {
				continue
			}
			if fields[2] == "0" || fields[4] != "0" || fields[5] != "0" {
				t.Errorf("written, missing, duplicates: %s", line)
			}
		}
		if !regexp.MustCompile(`(?m)^ *poll `).MatchString(out.String()) {
			t.Errorf("no line for poll:\n%s", out)
		}
	}
}

func TestWrongCommands(t *testing.T) {
	needServer(t)
	for _, args := range [][]string{{"nosuch"}, {"load", "-concurrency", "0"}, {"load", "x"}, {"load", "-nosuch"}} {
		if err := run(context.Background(), args, new(syncBuffer)); err == nil {
			t.Errorf("%v is no error", args)
		}
	}
}
