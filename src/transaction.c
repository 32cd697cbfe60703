/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  What the end of a transaction means for every part, in order.
 *
 * What is called for XACT_EVENT_PRE_COMMIT and XACT_EVENT_PRE_PREPARE may fail
 * the transaction; what is called for the others must not fail.
 *
 * 1. Before commit, the positions of the subscriptions that were read are
 *	  brought up to date, and then the events of async mode get their places
 *	  in the staging queue, which may wait for room: a position that cannot
 *	  be committed ends the transaction before anything waits.
 *
 * 2. At commit, the relay's own batch comes first, so that its mark moves
 *	  together with the commit that it stands for; so what it has emptied.  Databases and the
 *	  extension come and go next.  Positions are shown before changes of
 *	  subscriptions, for a binding that is dropped counts as lost whatever its
 *	  position leaves; claims end after both.  The events of async mode are
 *	  shown last: whoever they wake finds all else done.
 *
 * 3. At abort, and at PREPARE TRANSACTION, the parts are called in that order
 *	  too, but there is nothing to show.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "transaction.h"

#include "access/xact.h"
#include "publish/publish.h"
#include "read/read.h"
#include "relay/relay.h"
#include "server/server.h"

/* What an event of a top transaction means. */
static void
transaction_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			read_pre_commit();
			publish_pre_commit();
			break;
		case XACT_EVENT_PRE_PREPARE:
			hooks_pre_prepare();
			read_pre_prepare();
			publish_pre_prepare();
			break;
		case XACT_EVENT_COMMIT:
			relay_staged_at_commit();
			relay_note_at_commit();
			relay_empty_at_commit();
			hooks_at_end(true);
			read_at_commit();
			publish_at_end(true);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			hooks_at_end(false);
			read_at_abort();
			publish_at_end(false);
			break;
		default:
			break;
	}
}

/* What an event of a subtransaction means. */
static void
subtransaction_callback(SubXactEvent event, SubTransactionId mySubid,
						SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		hooks_at_subcommit(level);
		read_at_subcommit(level);
		publish_at_subcommit(level);
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		hooks_at_subabort(level);
		read_at_subabort(level);
		publish_at_subabort(level);
	}
}

/*
 * Have core call this file; from _PG_init().
 */
void
transaction_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
}
