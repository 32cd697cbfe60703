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
	Changed []string `json:"changed"` // the columns that an UPDATE changed; the format debezium has none
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

// Change decodes the payload of a change event in any of the formats plain,
// cloudevents and debezium. Its error is [ErrNotChange] if the payload is none.
func (m *Message) Change() (*Change, error) {
	var envelope struct {
		SpecVersion string          `json:"specversion"`
		Data        json.RawMessage `json:"data"`
		ID          string          `json:"id"`
		Op          string          `json:"op"`
		Source      json.RawMessage `json:"source"`
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
	var (
		change *Change
		err    error
	)
	switch Op(envelope.Op) {
	case Insert, Update, Delete, Truncate:
		change = new(Change)
		err = decodeJSON(text, change)
	default:
		op, known := debeziumOps[envelope.Op]
		if !known || len(envelope.Source) == 0 {
			return nil, ErrNotChange
		}
		change, err = debeziumChange(op, text)
	}
	if err != nil {
		return nil, fmt.Errorf("pgpubsub: decode change event %q: %w", envelope.ID, err)
	}
	return change, nil
}

// debeziumOps are the operations as the format debezium names them.
var debeziumOps = map[string]Op{"c": Insert, "u": Update, "d": Delete, "t": Truncate}

// debeziumChange decodes an event in Debezium's envelope, which has neither the
// process nor the columns that changed.
func debeziumChange(op Op, text []byte) (*Change, error) {
	var event struct {
		ID     string `json:"id"`
		Key    Row    `json:"key"`
		OldKey Row    `json:"old_key"`
		Before Row    `json:"before"`
		After  Row    `json:"after"`
		Source struct {
			Schema    string `json:"schema"`
			Table     string `json:"table"`
			Partition string `json:"partition"`
			TxID      uint64 `json:"txId"`
		} `json:"source"`
		Milliseconds int64  `json:"ts_ms"`
		Node         string `json:"node"`
		Truncated    bool   `json:"truncated"`
	}
	if err := decodeJSON(text, &event); err != nil {
		return nil, err
	}
	return &Change{
		RowChange: RowChange{Key: event.Key, OldKey: event.OldKey, New: event.After, Old: event.Before},
		ID:        event.ID,
		Op:        op,
		Schema:    event.Source.Schema,
		Table:     event.Source.Table,
		Partition: event.Source.Partition,
		TxID:      event.Source.TxID,
		Time:      time.UnixMilli(event.Milliseconds).UTC(),
		Node:      event.Node,
		Truncated: event.Truncated,
	}, nil
}

// decodeJSON is json.Unmarshal that leaves numbers as they were written.
func decodeJSON(text []byte, dst any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(dst)
}
