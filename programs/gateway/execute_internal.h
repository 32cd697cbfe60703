/*-------------------------------------------------------------------------
 *
 * execute_internal.h
 *	  One statement, for execute.c, and execute_set.c, which has what is about
 *	  settings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_EXECUTE_INTERNAL_H
#define GATEWAY_EXECUTE_INTERNAL_H

#include "gateway/session.h"

/* execute.c */
extern Outcome execute_fail(Session *session, const char *sqlstate, const char *format,
							const char *name, const char *hint);

/* execute_set.c */
extern Outcome execute_set(Session *session, const Statement *statement);
extern void execute_reset(Session *session, const char *name);
extern void execute_reset_all(Session *session);
extern void execute_modes(Transaction *transaction, const Statement *statement);
extern void execute_set_transaction(Session *session, const Statement *statement);
extern Outcome execute_show(Session *session, const Statement *statement,
							const Execution *execution);

#endif
