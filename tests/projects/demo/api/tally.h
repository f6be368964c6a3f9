/* tally for programs in C. */
#ifndef TALLY_H
#define TALLY_H
#ifdef __cplusplus
extern "C" {
#endif
typedef struct tally_machine tally_machine;
tally_machine *tally_new(void);
/* Runs a program. The result as text, or NULL; valid until the next call. */
const char *tally_run(tally_machine *machine, const char *source);
/* What went wrong in the last call that returned NULL. */
const char *tally_error(const tally_machine *machine);
void tally_free(tally_machine *machine);
#ifdef __cplusplus
}
#endif
#endif
