/* Computes its argument by way of the shared library. */
#include <stdio.h>

#include "tally.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: tally_embedded PROGRAM\n");
        return 2;
    }
    tally_machine *machine = tally_new();
    if (machine == NULL) return 1;
    const char *result = tally_run(machine, argv[1]);
    if (result != NULL) puts(result);
    else fputs(tally_error(machine), stderr);
    int status = result != NULL ? 0 : 1;
    tally_free(machine);
    return status;
}
