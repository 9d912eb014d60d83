/* Vectors of the widest kind that the machine has, in float or double (REAL), and what is computed with them. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#else
#define BYTES 32
#endif
#define LANES ((int)(BYTES / sizeof(REAL)))
#define ROWS (BYTES / 8) /* of a step that are computed together: as many as the registers hold with a few vectors each */

/* How many columns of weights are packed together. */
int lanes(void) { return LANES; }

typedef REAL vec __attribute__((vector_size(BYTES)));
typedef REAL loose __attribute__((vector_size(BYTES), aligned(sizeof(REAL))));
#if IS_DOUBLE
typedef int64_t ints __attribute__((vector_size(BYTES)));
#define SHIFT 52
#define MAGIC 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer */
#define LIMIT 700.0
#define DEGREE 13
#define root __builtin_sqrt
#else
typedef int32_t ints __attribute__((vector_size(BYTES)));
#define SHIFT 23
#define MAGIC 12582912.0f
#define LIMIT 87.0f
#define DEGREE 7
#define root __builtin_sqrtf
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

INLINE vec load(const REAL *from) { return (vec) * (const loose *)from; }
INLINE void store(REAL *to, vec value) { *(loose *)to = (loose)value; }
INLINE vec all(REAL value) { return value - (vec){0}; }
INLINE vec choose(ints condition, vec yes, vec no) {
    return (vec)((condition & (ints)yes) | (~condition & (ints)no));
}

/* e^x: x = n ln 2 + r, Taylor's series of r, and n into the exponent. NaN stays NaN. */
INLINE vec exponential(vec x) {
    static const REAL inverse[] = {1.0,           1.0,           1.0 / 2,        1.0 / 6,        1.0 / 24,
                                   1.0 / 120,     1.0 / 720,     1.0 / 5040,     1.0 / 40320,    1.0 / 362880,
                                   1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    x = choose(x > all((REAL)LIMIT), all((REAL)LIMIT), x);
    x = choose(x < all((REAL)-LIMIT), all((REAL)-LIMIT), x);
    const vec shifted = x * (REAL)1.4426950408889634074 + (REAL)MAGIC;
    const vec n = shifted - (REAL)MAGIC;
    /* ln 2 in two parts, the first short enough for n times it to be exact */
    const vec r = (x - n * (REAL)0.693145751953125) - n * (REAL)1.42860682030941723212e-6;
    vec sum = all(inverse[DEGREE]);
    _Pragma("GCC unroll 16") for (int i = DEGREE - 1; i >= 0; i--) sum = sum * r + inverse[i];
    return (vec)((ints)sum + ((ints)shifted << SHIFT));
}

INLINE vec sigmoid(vec x) { return 1 / (1 + exponential(-x)); }
