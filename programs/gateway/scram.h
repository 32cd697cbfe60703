/*-------------------------------------------------------------------------
 *
 * scram.h
 *	  The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677).
 *
 * Messages are text that the caller sends and takes.  No socket and no loop is
 * known here: it can be tested alone.  What costs time is in scram_compute(), which
 * does it in parts, and may run in another thread.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_SCRAM_H
#define GATEWAY_SCRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Scram Scram;

extern Scram *scram_begin(const char *name, const char *password,
						  const char *nonce);
extern void scram_free(Scram *scram);
extern const char *scram_first_message(const Scram *scram);
extern bool scram_challenge(Scram *scram, const char *text, size_t length);
extern int64_t scram_iterations(const Scram *scram);
extern bool scram_compute(Scram *scram, int64_t iterations);
extern const char *scram_final_message(Scram *scram);
extern bool scram_verify(const Scram *scram, const char *text, size_t length);

#endif
