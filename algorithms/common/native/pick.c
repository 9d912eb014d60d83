/* ε-greedy choice and its trace in what agents see next: a dozen small operations of numpy in one call, whose code
   is in the cache of a worker that waits for its simulator in between. */

#include <stdint.h>
#include <string.h>

/* values, legal: [M, A]; draws: [2, M], uniform in [0, 1), or null for epsilon = 0. Where the first draw is below
   epsilon, a legal action by the second one; elsewhere the legal one of the highest value, the first of several. Both
   to `chosen` [M], and one-hot to `shown`, M places of A numbers that are `stride` apart. `worst` is the value of what
   is not legal. Returns the first row where one was to be drawn and none is legal, -1 if there is none. */
long pick(long M, long A, long stride, double epsilon, REAL worst, const REAL *values, const uint8_t *legal,
          const double *draws, int64_t *chosen, REAL *shown) {
    for (long row = 0; row < M; row++, values += A, legal += A, shown += stride) {
        long best = 0;
        if (draws && draws[row] < epsilon) {
            long count = 0;
            for (long a = 0; a < A; a++) count += legal[a];
            if (!count) return row;
            long left = (long)(draws[M + row] * (double)count);
            while (!legal[best] || left--) best++;
        } else {
            REAL highest = legal[0] ? values[0] : worst;
            for (long a = 1; a < A && highest == highest; a++) {
                const REAL value = legal[a] ? values[a] : worst;
                if (!(value <= highest)) highest = value, best = a; /* what is not a number counts as the highest */
            }
        }
        chosen[row] = best;
        memset(shown, 0, A * sizeof(REAL));
        shown[best] = 1;
    }
    return -1;
}
