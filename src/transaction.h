/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  What the end of a transaction means for every part.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_TRANSACTION_H
#define PGPUBSUB_TRANSACTION_H

extern void transaction_init(void);

#endif							/* PGPUBSUB_TRANSACTION_H */
