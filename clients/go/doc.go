// Package pgpubsub reads subscriptions of the PostgreSQL extension pgpubsub over
// a pool of pgx 5.
//
// A subscription is a named position in the database's stream of events. It
// belongs to no connection, so its consumer works through a pooler in
// transaction mode, too. A consumer is a loop:
//
//	client := pgpubsub.New(pool, pgpubsub.Options{})
//	sub, err := client.Subscribe(ctx, "billing", []string{"orders"}, pgpubsub.SubscribeOptions{})
//	if err != nil {
//		return err
//	}
//	for event, err := range sub.Events(ctx) {
//		if err != nil {
//			return err
//		}
//		switch event := event.(type) {
//		case *pgpubsub.Message:
//			// handle it
//		case *pgpubsub.Gap:
//			// events are missing: read the tables again
//		}
//	}
//
// # What is promised
//
// [Subscription.Events], [Subscription.Batches], [Subscription.Channel] and
// [Subscription.Handle] hand out each event at least once: they look, and
// acknowledge an event once the next one is asked for. An event whose handler
// fails, or whose loop is left, comes again. [Subscription.HandleTx] hands out
// events in the transaction that consumes them: what its function writes there
// and the events' consumption commit together, so each event takes effect
// exactly once; on durable channels over crashes and failovers, too.
//
// The loops go on whatever happens to the connection, the pooler or the server:
// they try again for ever, with growing random pauses. They end with their
// context, or with an error that no retry would cure, such as a missing
// privilege. Ending loses no event.
//
// One consumer at a time should read a subscription. A second one that reads it
// with HandleTx takes turns with the first; with the other forms both may be
// handed the same events.
package pgpubsub
