/* Tails of importance ratios, smoothed by a generalized Pareto distribution that is fitted to them.

   The fit is that of J. Zhang and M. A. Stephens, "A new and efficient estimation method for the generalized Pareto
   distribution", Technometrics 51 (2009); smoothing, and the prior of k, are those of A. Vehtari, D. Simpson, A. Gelman,
   Y. Yao and J. Gabry, "Pareto smoothed importance sampling", JMLR 25 (2024). Where they have theta, here is its negative,
   the slope of the factors 1 + slope x. Weights are e^(r - R) 2^LIFT, with R the largest log-ratio. */

#define LARGEST_WEIGHT double_of((uint64_t)(1023 + LIFT) << 52)

/* The weight of r, as a pair. */
INLINE void weigh_ratio(double r, double largest, double *high, double *low) {
    int64_t exponent;
    double v, below;
    two_sum_portable(r, -largest, &v, &below);
    int counts = v >= LEAST_LOG_WEIGHT && v <= 0.0; /* above, r is not of a tail */
    own_term(counts ? v : LEAST_LOG_WEIGHT, NATURAL, high, low, &exponent);
    *low = *low + *high * (counts ? below : 0.0);
    *high = *high * power_of(exponent + LIFT), *low = *low * power_of(exponent + LIFT);
}

/* e^z - 1 */
static double exp_less_one(double z) {
    double high, low;
    int64_t exponent;
    if (!(fabs(z) < 709.0)) return z > 0.0 ? INFINITY : -1.0;
    own_term(z, NATURAL, &high, &low, &exponent);
    return (high * power_of(exponent) - 1.0) + low * power_of(exponent);
}

/* What a fit works with. Arrays have a multiple of 8 elements, and what is not used of them is known. */
typedef struct {
    double *x, *depth, *high, *low, *log_high, *log_low; /* as many as values of the tail, and one more */
    double *slope, *kappa, *profile, *share;             /* as many as points of the grid */
    size_t size;                                         /* of the tail whose depths there are */
} tail_space;

static size_t grid_points(size_t size) { return GRID_POINTS + (size_t)sqrt((double)size); }

/* The memory, for free(), of tails of at most so many values; NULL where there is none. */
static double *new_tail_space(tail_space *s, size_t most) {
    size_t values = LANES_FOR(most + 1), points = LANES_FOR(grid_points(most));
    double **arrays[] = {&s->x, &s->depth, &s->high, &s->low, &s->log_high, &s->log_low,
                         &s->slope, &s->kappa, &s->profile, &s->share};
    double *memory = allocate((6 * values + 4 * points) * sizeof(double)), *next = memory;
    if (!memory) return NULL;
    for (int i = 0; i < 10; i++) *arrays[i] = next, next += i < 6 ? values : points;
    s->size = 0;
    return memory;
}

/* Writes -ln(1 - p) of the p in the middle of equal parts of [0, 1], unless those of a tail of that size are there. */
static void set_depths(tail_space *s, size_t size) {
    if (s->size == size) return;
    s->size = size;
    for (size_t i = 0; i < LANES_FOR(size); i++) s->high[i] = 1.0, s->low[i] = 0.0;
    for (size_t i = 0; i < size; i++)
        divide((double)(2 * (size - i) - 1), 0.0, (double)(2 * size), 0.0, &s->high[i], &s->low[i]);
    loops->logs(s->high, s->low, 0, LANES_FOR(size), s->log_high, s->log_low);
    for (size_t i = 0; i < size; i++) s->depth[i] = -s->log_high[i];
}

/* Writes kappa, the mean of ln(1 + slope x) over the tail, of each slope. */
static void set_kappas(tail_space *s, size_t points, size_t size) {
    for (size_t j = points; j < LANES_FOR(points); j++) s->slope[j] = 0.0;
    loops->sum_logs(s->slope, LANES_FOR(points), s->x, size, s->kappa);
    for (size_t j = 0; j < points; j++) s->kappa[j] = s->kappa[j] / (double)size;
}

/* Writes kappa and sigma of the distribution of ascending exceedances; 0 for sigma, or NaN for kappa, where there is none.
   NaN it is of a quartile so small that a factor overflows: the profile has a NaN then, and no point a share. */
static int fit_exceedances(tail_space *s, size_t size, double *kappa, double *sigma) {
    const double *x = s->x;
    double quartile = x[(size + 2) / 4 - 1], largest = x[size - 1], mean = 0.0, sum = 0.0, slope = 0.0;
    size_t points = grid_points(size);
    *kappa = *sigma = 0.0;
    if (!(quartile > x[0])) return DONE;
    for (size_t i = 0; i < size; i++) mean = mean + x[i];
    mean = mean / (double)size;
    for (size_t j = 0; j < points; j++)
        s->slope[j] = (sqrt((double)points / ((double)j + 0.5)) - 1.0) / (3.0 * quartile) - 1.0 / largest;
    set_kappas(s, points, size);
    for (size_t j = 0; j < points; j++) {
        double inverse = s->slope[j] != 0.0 ? s->slope[j] / s->kappa[j] : 1.0 / mean; /* of sigma; what it tends to */
        s->profile[j] = inverse * quartile;
    }
    logs_of(s->profile, points, s->profile);
    for (size_t j = 0; j < points; j++) s->profile[j] = (double)size * (s->profile[j] - s->kappa[j]);
    if (row_softmax(s->profile, 1, points, s->share)) return NO_MEMORY;
    for (size_t j = 0; j < points; j++)
        if (s->share[j] >= LEAST_SHARE) sum = sum + s->share[j], slope = slope + s->share[j] * s->slope[j];
    slope = slope / sum;
    s->slope[0] = slope;
    set_kappas(s, 1, size);
    *kappa = s->kappa[0];
    *sigma = slope != 0.0 ? *kappa / slope : mean;
    return DONE;
}

/* Of one observation, of its cutoff and the tail above. */
static int smooth_tail(const double *r, size_t size, int64_t others, double rest, tail_space *s, double out[4]) {
    double cut_high, cut_low, high, low, error, kappa, sigma, largest = r[size], above = 0.0, sum = 0.0, squares = 0.0;
    size_t padded = LANES_FOR(size + 1);
    out[0] = INFINITY, out[1] = out[2] = out[3] = double_of(THE_NAN);
    if (size < LEAST_TAIL) return DONE;
    weigh_ratio(r[0], largest, &cut_high, &cut_low);
    for (size_t i = 0; i < size; i++) {
        weigh_ratio(r[i + 1], largest, &high, &low);
        double x = (high - cut_high) + (low - cut_low);
        above = x > above ? x : above; /* they ascend, whatever their rounding */
        s->x[i] = above;
    }
    if (fit_exceedances(s, size, &kappa, &sigma)) return NO_MEMORY;
    if (!(isfinite(kappa) && sigma > 0.0)) return DONE;
    double k = ((double)size * kappa + 0.5 * PRIOR_VALUES) / (double)(size + PRIOR_VALUES), cutoff = cut_high + cut_low;
    set_depths(s, size);
    for (size_t i = 0; i < padded; i++) s->high[i] = 1.0, s->low[i] = 0.0;
    for (size_t i = 0; i < size; i++) {
        double weight = cutoff + sigma * (k != 0.0 ? exp_less_one(k * s->depth[i]) / k : s->depth[i]);
        s->high[i] = weight < LARGEST_WEIGHT ? weight : LARGEST_WEIGHT;
        sum = sum + s->high[i];
    }
    s->high[size] = (double)others * LARGEST_WEIGHT;
    loops->logs(s->high, s->low, -LIFT, padded, s->log_high, s->log_low);
    for (size_t i = 0; i <= size; i++) {
        two_sum_portable(s->log_high[i], -(i < size ? r[i + 1] : largest), &high, &error);
        s->log_high[i] = high + (error + s->log_low[i]);
    }
    double raised, of_sum;
    sum = rest + sum * power_of(-LIFT);
    row_values(s->log_high, 1, size + 1, &raised); /* the sum of weights times e^-r */
    logs_of(&sum, 1, &of_sum);
    double mean = raised - of_sum;
    for (size_t i = 0; i < size; i++) s->log_high[i] = s->log_high[i] - mean;
    exps_of(s->log_high, size, s->log_low);
    for (size_t i = 0; i < size; i++) {
        double difference = (s->log_low[i] - s->high[i] * power_of(-LIFT)) / sum; /* whose square might underflow otherwise */
        squares = squares + difference * difference;
    }
    out[0] = k, out[1] = mean, out[2] = sum, out[3] = squares;
    return DONE;
}

/* Writes k, the logarithm of the mean of e^-r by the weights w, their sum, and the sum of (w (e^-r / mean - 1) / sum)^2 over the
   tail, for each of n observations; +inf, and NaN, where nothing is fitted. rests are the weights of what is not of the tail. */
static int smooth_tails(const double *tails, const double *rests, const int64_t *offsets, const int64_t *others, size_t n,
                        double (*out)[4]) {
    tail_space space;
    int64_t most = 0;
    int result = DONE;
    for (size_t i = 0; i < n; i++) most = offsets[i + 1] - offsets[i] > most ? offsets[i + 1] - offsets[i] : most;
    double *memory = new_tail_space(&space, (size_t)most);
    if (!memory) return NO_MEMORY;
    for (size_t i = 0; i < n && result == DONE; i++)
        result = smooth_tail(tails + offsets[i], (size_t)(offsets[i + 1] - offsets[i]) - 1, others[i], rests[i], &space, out[i]);
    free(memory);
    return result;
}
