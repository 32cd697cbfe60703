package pgpubsub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrNotChange is what [Message.Change] returns for a payload that is no change
// event, but a message of somebody's own.
var ErrNotChange = errors.New("pgpubsub: the payload is not a change event")

// An Op is what happened to a row, or to a table.
type Op string

// The operations of change events.
const (
	Insert   Op = "INSERT"
	Update   Op = "UPDATE"
	Delete   Op = "DELETE"
	Truncate Op = "TRUNCATE"
)

// A Row maps columns to values: nil, bool, string, [json.Number], []any or
// map[string]any. Numbers keep every digit that the server wrote.
type Row map[string]any

// Decode stores the row's columns in the struct or map that dst points to, as
// [json.Unmarshal] does.
func (r Row) Decode(dst any) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return decodeJSON(text, dst)
}

// A RowChange is what happened to one row. Rows that the event does not carry
// are nil: New of a DELETE, Old of an INSERT, all but the keys of an event that
// was too large.
type RowChange struct {
	Key     Row      `json:"key"`     // the primary key, or the replica identity
	OldKey  Row      `json:"old_key"` // the key before, if it changed
	New     Row      `json:"new"`
	Old     Row      `json:"old"`
	Changed []string `json:"changed"` // the columns that an UPDATE changed
}

// A Change is a decoded change event. An event of one row has it in the embedded
// RowChange; one of a statement (attached with level 'statement') has Rows.
type Change struct {
	RowChange
	ID        string      `json:"id"` // unique: a key by which to know what was handled
	Op        Op          `json:"op"`
	Schema    string      `json:"schema"`
	Table     string      `json:"table"`
	Partition string      `json:"partition"` // the leaf, if that is not the table
	TxID      uint64      `json:"txid"`
	PID       int32       `json:"pid"`
	Time      time.Time   `json:"ts"`
	Node      string      `json:"node"`      // the server's pgpubsub.node_name
	Truncated bool        `json:"truncated"` // it was too large, and came without rows
	Count     int         `json:"count"`     // of a statement's rows
	Rows      []RowChange `json:"rows"`
	Part      int         `json:"part"` // of Parts, if a statement's event was split
	Parts     int         `json:"parts"`
}

// Change decodes the payload of a change event in the format plain or
// cloudevents. Its error is [ErrNotChange] if the payload is none.
func (m *Message) Change() (*Change, error) {
	var envelope struct {
		SpecVersion string          `json:"specversion"`
		Data        json.RawMessage `json:"data"`
		ID          string          `json:"id"`
		Op          string          `json:"op"`
	}
	text := []byte(m.Payload)
	if decodeJSON(text, &envelope) != nil {
		return nil, ErrNotChange
	}
	if envelope.SpecVersion != "" {
		text = envelope.Data
		if decodeJSON(text, &envelope) != nil {
			return nil, ErrNotChange
		}
	}
	switch Op(envelope.Op) {
	case Insert, Update, Delete, Truncate:
	default:
		return nil, ErrNotChange
	}

	change := new(Change)
	if err := decodeJSON(text, change); err != nil {
		return nil, fmt.Errorf("pgpubsub: decode change event %q: %w", envelope.ID, err)
	}
	return change, nil
}

// decodeJSON is json.Unmarshal that leaves numbers as they were written.
func decodeJSON(text []byte, dst any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(dst)
}
