package pgpubsub

import (
	"context"
	"fmt"
	"strings"
)

// A Mux calls a handler by the event's channel. Give its Serve to
// [Subscription.Handle]. Register all handlers before that.
type Mux struct {
	channels map[string]Handler
	patterns []muxPattern // in the order of their registration
	gap      Handler
	other    Handler
}

type muxPattern struct {
	pattern string
	handler Handler
}

// NewMux returns a Mux without handlers.
func NewMux() *Mux { return &Mux{channels: make(map[string]Handler)} }

// Handle registers the handler of a channel, or of those that a pattern matches,
// in which * stands for any run of characters. A channel's own handler goes
// before patterns, one pattern before those that are registered after it.
func (m *Mux) Handle(channel string, handler Handler) {
	if strings.Contains(channel, "*") {
		m.patterns = append(m.patterns, muxPattern{channel, handler})
	} else {
		m.channels[channel] = handler
	}
}

// HandleGap registers the handler of gaps.
func (m *Mux) HandleGap(handler Handler) { m.gap = handler }

// HandleOther registers the handler of messages whose channel has none.
func (m *Mux) HandleOther(handler Handler) { m.other = handler }

// Serve calls the event's handler. One that has none is an error: events are not
// lost silently.
func (m *Mux) Serve(ctx context.Context, event Event) error {
	if handler := m.find(event); handler != nil {
		return handler(ctx, event)
	}
	if message, ok := event.(*Message); ok {
		return fmt.Errorf("pgpubsub: channel %q has no handler", message.Channel)
	}
	return fmt.Errorf("pgpubsub: gaps have no handler (%v)", event)
}

func (m *Mux) find(event Event) Handler {
	message, ok := event.(*Message)
	if !ok {
		return m.gap
	}
	if handler, ok := m.channels[message.Channel]; ok {
		return handler
	}
	for _, p := range m.patterns {
		if matches(p.pattern, message.Channel) {
			return p.handler
		}
	}
	return m.other
}

// matches tells whether a name is one that a pattern stands for.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return true
}
