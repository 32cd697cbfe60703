/*-------------------------------------------------------------------------
 *
 * client_wait.h
 *	  Waits that end with the client's connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_CLIENT_WAIT_H
#define PGPUBSUB_CLIENT_WAIT_H

#include "base/pgpubsub.h"

#include "storage/condition_variable.h"

extern void client_sleep(long timeout, uint32 wait_event);
extern bool client_sleep_on(ConditionVariable *cv, long timeout,
							uint32 wait_event);
extern void client_expect(void);

#endif							/* PGPUBSUB_CLIENT_WAIT_H */
