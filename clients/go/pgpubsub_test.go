package pgpubsub

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"*", "any", true}, {"a*", "a", true}, {"a*", "b", false},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "aXbYc", true},
		{"a*b*c", "acb", false}, {"**", "x", true}, {"*b", "ab", true}, {"a*bc*c", "abc", false},
	} {
		if got := matches(test.pattern, test.name); got != test.want {
			t.Errorf("matches(%q, %q) = %v", test.pattern, test.name, got)
		}
	}
}

func TestMux(t *testing.T) {
	var called string
	to := func(name string) Handler {
		return func(context.Context, Event) error { called = name; return nil }
	}
	mux := NewMux()
	serve := func(event Event) string {
		called = ""
		if err := mux.Serve(context.Background(), event); err != nil {
			return "error"
		}
		return called
	}
	check := func(event Event, want string) {
		t.Helper()
		if got := serve(event); got != want {
			t.Errorf("%v went to %q, want %q", event, got, want)
		}
	}
	check(&Message{Channel: "orders"}, "error")
	check(&Gap{Lost: 1}, "error")
	mux.Handle("shop_*", to("pattern"))
	mux.Handle("shop_a", to("name"))
	mux.HandleGap(to("gap"))
	check(&Message{Channel: "shop_a"}, "name")
	check(&Message{Channel: "shop_b"}, "pattern")
	check(&Gap{}, "gap")
	mux.HandleOther(to("other"))
	check(&Message{Channel: "orders"}, "other")
}

func TestPermanent(t *testing.T) {
	for code, want := range map[string]bool{
		"42501": true, "42704": true, "28P01": true, "3D000": true, "22023": true,
		"55006": false, "55000": false, "57P01": false, "57P03": false, "08P01": false,
		"25006": false, "53300": false, "40001": false, "": false,
	} {
		if got := permanent(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("permanent(%s) = %v", code, got)
		}
	}
	if permanent(errors.New("connection reset by peer")) {
		t.Error("a lost connection is permanent")
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{limit: 5 * time.Second}
	want := firstDelay
	for range 20 {
		if d := b.delay(nil); d < want/2 || d > want {
			t.Errorf("a pause of %v, want %v to %v", d, want/2, want)
		}
		want = min(2*want, b.limit)
	}
	if d := b.delay(&pgconn.PgError{Code: stateInUse}); d > inUseDelay {
		t.Errorf("a pause of %v for a subscription in use", d)
	}
	b.reset()
	if d := b.delay(nil); d > firstDelay {
		t.Errorf("a pause of %v after a reset", d)
	}
}

func TestTurns(t *testing.T) {
	s := newSlots(2, false)
	s.consumers.Store(2)
	if d := s.wait(time.Minute); d != time.Minute {
		t.Errorf("two consumers of two slots wait %v", d)
	}
	s.consumers.Store(10)
	if d := s.wait(time.Minute); d != turn/5 {
		t.Errorf("ten consumers of two slots wait %v", d)
	}
	s.consumers.Store(100000)
	if d := s.wait(time.Minute); d != shortestWait {
		t.Errorf("many consumers of two slots wait %v", d)
	}
}

func TestChangeOfOtherFormats(t *testing.T) {
	message := func(payload string) (*Change, error) { return (&Message{Payload: payload}).Change() }
	for _, payload := range []string{"", "text", "1", "null", `{"op":"c"}`, `{"op":"x","source":{}}`, `{"specversion":"1.0"}`, `[]`} {
		if _, err := message(payload); !errors.Is(err, ErrNotChange) {
			t.Errorf("%q: %v", payload, err)
		}
	}
	change, err := message(`{"specversion":"1.0","data":{"id":"7-1","op":"DELETE","key":{"id":1},"txid":18446744073709551615}}`)
	if err != nil || change.ID != "7-1" || change.Key["id"] == nil || change.TxID != 18446744073709551615 {
		t.Errorf("%+v, %v", change, err)
	}
	change, err = message(`{"id":"8-1","op":"UPDATE","count":2,"rows":[{"key":{"id":1},"new":{"a":1.50}},{"key":{"id":2}}]}`)
	if err != nil || len(change.Rows) != 2 || fmt.Sprint(change.Rows[0].New["a"]) != "1.50" {
		t.Errorf("%+v, %v", change, err)
	}
	change, err = message(`{"id":"9-1","key":{"id":1},"before":{"a":1.50},"after":{"id":1,"a":2},"source":{"schema":"s",` +
		`"table":"t","txId":18446744073709551615},"op":"u","ts_ms":1796032781961}`)
	if err != nil || change.Op != Update || fmt.Sprintf("%v %v %v %s %s", change.Key, change.Old, change.New, change.Schema, change.Table) !=
		"map[id:1] map[a:1.50] map[a:2 id:1] s t" || change.TxID != 18446744073709551615 || change.Time.UnixMilli() != 1796032781961 {
		t.Errorf("%+v, %v", change, err)
	}
	if _, err := message(`{"id":"9-1","op":"INSERT","txid":"x"}`); err == nil || errors.Is(err, ErrNotChange) {
		t.Errorf("a broken change event: %v", err)
	}
}
