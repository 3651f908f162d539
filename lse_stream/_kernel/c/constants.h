/* Written by generate_constants.py: do not edit. */

/* Of a record. A change of any number in this file is a new version. */
#define VERSION (2)

/* Bits of a limb, of the 53 of a double: a term has at most 2^49 of a quantum, and rounding by ROUND bears 2^51. Three
   limbs reach 2^-100, where a term is known to about 2^-60. */
#define LIMB_BITS (50)

/* 1.5 2^52: adding and subtracting it rounds to an integer, of either sign, which is in the low bits between. */
#define ROUND (0x1.8p+52)
#define ROUND_BITS 0x4338000000000000ULL

/* ROUND for the quantum of limb i, 2^(-50 i): the bits of a sum beyond this pattern are the limb. */
#define LIMB_ROUND_0 (0x1.8p+52)
#define LIMB_PATTERN_0 0x4338000000000000ULL
#define LIMB_ROUND_1 (6.0)
#define LIMB_PATTERN_1 0x4018000000000000ULL
#define LIMB_ROUND_2 (0x1.8p-48)
#define LIMB_PATTERN_2 0x3CF8000000000000ULL

/* From this abs(x) on, x takes a first reduction: below, k = x 128 / ln2 has at most 31 bits, and its products with
   pieces of 22 bits are exact. */
#define FAR (0x1p+23)

/* From this abs(c x) on, only ties with the maximum count: neighbours are 2^7 apart or more, and e^-128 adds nothing.
   Below, the first reduction's multiple of 2^22 ln2 has at most 38 bits. */
#define TOO_FAR (0x1p+60)

/* A value this far below the second adds nothing: 102 powers of 2, which are 71, would do. Where values are 2^7 apart,
   second - SPAN is rounded to second - 128 or less. A span of 128 would not do: above -2^59, second - 128 may be
   rounded to second - 64. */
#define SPAN (192.0)

/* Terms whose limbs may be summed in an int64: limbs are below 2^50, and 2^12 of them below 2^62. */
#define FLUSH (4096)

/* The base of a sum without a grid: below every base. */
#define NO_BASE INT64_MIN

/* On its grid every limb of e^0 is 0: half the last quantum is 2^99. */
#define VANISHING_BASE (200)

/* Clips the power of 2 of a rest over the term of the max, which is then below 2^-1074: unscaled it is below 2^116.
   Half of it is the exponent of a normal number. */
#define LEAST_SHIFT (-2040)

/* Added to the base of a sum of weights where abs(c max) >= TOO_FAR, a multiple of LIMB_BITS. A base from half of it on
   is such a one: other bases are at most 2^60 / ln2 and 1100, or 2^60.53, and half of this is 2^60.64. */
#define FAR_BASE (INT64_C(25) * (INT64_C(1) << 57))

/* Exponent of a product that adds nothing: below those of all others, which are above -2^60.6, and so far from the ends
   of an int64 that a base may be subtracted from it. */
#define NO_EXPONENT (INT64_C(-1) * (INT64_C(1) << 61))

/* What weights may add to the base of a term. They are from 2^-1074 to below 2^1024, and bases are multiples of 50: of
   22 and 21 of these. */
#define LEAST_WEIGHT_BASE (-1100)
#define MOST_WEIGHT_BASE (1050)

/* Clips the power of 2 that a quotient of weighted sums is scaled by. Unscaled, it is within 2^-214 and 2^116, as
   counts are below 2^63 and the lowest limb is in units of 2^-100: shifted this far, all is 0 or infinite. */
#define MOST_SHIFT (3000)

/* Clips the exponent of a product of pairs within 1/4 and 8: beyond +-1100 it is 0 or infinite. Half of it is the
   exponent of a normal number. */
#define MOST_EXPONENT (2000)

/* Exponent of the unit of exact sums: a multiple of 64 below that of the least product, 2^-1074 2^-1074. */
#define UNIT (-2176)

/* Chunks of 32 bits in an exact sum: they reach to 2^2304, for 2^255 of the largest products and a sign. */
#define CHUNKS (140)

/* CHUNKS in words of 64 bits: as many as an exact sum may take. */
#define MOST_WORDS (70)

/* As many as one of a record may take: fewer than 2^63 products are below 2^2111. Merges never reach MOST_WORDS so. */
#define MOST_RECORD_WORDS (67)

/* Values of the shortest tail that a distribution is fitted to. */
#define LEAST_TAIL (5)

/* Points of the grid of a fit, beside the root of the number of values. */
#define GRID_POINTS (30)

/* What a point of the grid must have of the likelihood of all to be averaged. */
#define LEAST_SHARE (0x1.4p-49)

/* Values whose k is 1/2: how much the prior of k weighs. */
#define PRIOR_VALUES (10)

/* Weights of tails are times 2^512, and so normal numbers wherever they matter: the largest is 1, and the least
   quartile that is fitted about e^-709, which is 2^-1023. */
#define LIFT (512)

/* What a log-ratio counts as at least in a weight, which is 2^-420 of the least quartile then. */
#define LEAST_LOG_WEIGHT (-1000.0)

/* Factors within 1 and 2 whose product neither overflows nor does so when split. */
#define FACTORS_TOGETHER (512)

/* What an exact sum is that is not finite. Infinities of both signs make NaN: bitwise or. */
#define PLUS_INFINITY (1)
#define MINUS_INFINITY (2)
#define NOT_A_NUMBER (3)

/* How many of the smallest values a list may keep: its head has 16 bits for that. */
#define MOST_SMALLEST (65535)

/* What a record that is not canonical violates, in the order in which this is looked for. */
#define FAULT_COUNT (0)
#define FAULT_MAX (1)
#define FAULT_TIES (2)
#define FAULT_SECOND (3)
#define FAULT_BASE (4)
#define FAULT_LIMBS (5)

/* Coefficients and tables of e^x and log1p, whose reductions generate_constants.py describes. */
#define STEPS_PER_UNIT (0x1.71547652b82fep+7)
#define STEP_1 (0x1.62e43p-8)
#define STEP_2 (-0x1.05c6p-36)
#define STEP_3 (-0x1.0ca86c3898dp-56)
#define FAR_PER_UNIT (0x1.71547652b82fep-22)
#define FAR_1 (0x1.62e8p-1)
#define FAR_2 (-0x1.e81p-16)
#define FAR_3 (0x1.f47p-30)
#define FAR_4 (0x1.ef35793c7673p-45)
#define LN2_HIGH (0x1.62e42fefa38p-1)
#define LN2_LOW (0x1.ef35793c7673p-45)
#define E1 (0x1.5555555555555p-3)
#define E2 (0x1.55555a3890e12p-5)
#define E3 (0x1.1111111111111p-7)
#define L3 (0x1.5555555555555p-2)
#define L4 (-0x1p-2)
#define L5 (0x1.999999999999ap-3)
#define L6 (-0x1.5555555555555p-3)
#define L7 (0x1.2492492492492p-3)
#define L8 (-0x1p-3)
#define L9 (0x1.c71c71c71c71cp-4)
#define L10 (-0x1.999999999999ap-4)
#define L11 (0x1.745d1745d1746p-4)
#define L12 (-0x1.5555555555555p-4)
#define L13 (0x1.3b13b13b13b14p-4)
static const double EXP2_TABLE[128][2] __attribute__((aligned(64))) = {
    {0x1.0000000000000p+0, 0x0.0p+0},
    {0x1.0163da9fb3335p+0, 0x1.b61299ab8cdb7p-54},
    {0x1.02c9a3e778061p+0, -0x1.19083535b085dp-56},
    {0x1.04315e86e7f85p+0, -0x1.0a31c1977c96ep-54},
    {0x1.059b0d3158574p+0, 0x1.d73e2a475b465p-55},
    {0x1.0706b29ddf6dep+0, -0x1.c91dfe2b13c27p-55},
    {0x1.0874518759bc8p+0, 0x1.186be4bb284ffp-57},
    {0x1.09e3ecac6f383p+0, 0x1.1487818316136p-54},
    {0x1.0b5586cf9890fp+0, 0x1.8a62e4adc610bp-54},
    {0x1.0cc922b7247f7p+0, 0x1.01edc16e24f71p-54},
    {0x1.0e3ec32d3d1a2p+0, 0x1.03a1727c57b53p-59},
    {0x1.0fb66affed31bp+0, -0x1.b9bedc44ebd7bp-57},
    {0x1.11301d0125b51p+0, -0x1.6c51039449b3ap-54},
    {0x1.12abdc06c31ccp+0, -0x1.1b514b36ca5c7p-58},
    {0x1.1429aaea92de0p+0, -0x1.32fbf9af1369ep-54},
    {0x1.15a98c8a58e51p+0, 0x1.2406ab9eeab0ap-55},
    {0x1.172b83c7d517bp+0, -0x1.19041b9d78a76p-55},
    {0x1.18af9388c8deap+0, -0x1.11023d1970f6cp-54},
    {0x1.1a35beb6fcb75p+0, 0x1.e5b4c7b4968e4p-55},
    {0x1.1bbe084045cd4p+0, -0x1.95386352ef607p-54},
    {0x1.1d4873168b9aap+0, 0x1.e016e00a2643cp-54},
    {0x1.1ed5022fcd91dp+0, -0x1.1df98027bb78cp-54},
    {0x1.2063b88628cd6p+0, 0x1.dc775814a8495p-55},
    {0x1.21f49917ddc96p+0, 0x1.2a97e9494a5eep-55},
    {0x1.2387a6e756238p+0, 0x1.9b07eb6c70573p-54},
    {0x1.251ce4fb2a63fp+0, 0x1.ac155bef4f4a4p-55},
    {0x1.26b4565e27cddp+0, 0x1.2bd339940e9d9p-55},
    {0x1.284dfe1f56381p+0, -0x1.a4c3a8c3f0d7ep-54},
    {0x1.29e9df51fdee1p+0, 0x1.612e8afad1255p-55},
    {0x1.2b87fd0dad990p+0, -0x1.10adcd6381aa4p-59},
    {0x1.2d285a6e4030bp+0, 0x1.0024754db41d5p-54},
    {0x1.2ecafa93e2f56p+0, 0x1.1ca0f45d52383p-56},
    {0x1.306fe0a31b715p+0, 0x1.6f46ad23182e4p-55},
    {0x1.32170fc4cd831p+0, 0x1.a9ce78e18047cp-55},
    {0x1.33c08b26416ffp+0, 0x1.32721843659a6p-54},
    {0x1.356c55f929ff1p+0, -0x1.b5cee5c4e4628p-55},
    {0x1.371a7373aa9cbp+0, -0x1.63aeabf42eae2p-54},
    {0x1.38cae6d05d866p+0, -0x1.e958d3c9904bdp-54},
    {0x1.3a7db34e59ff7p+0, -0x1.5e436d661f5e3p-56},
    {0x1.3c32dc313a8e5p+0, -0x1.efff8375d29c3p-54},
    {0x1.3dea64c123422p+0, 0x1.ada0911f09ebcp-55},
    {0x1.3fa4504ac801cp+0, -0x1.7d023f956f9f3p-54},
    {0x1.4160a21f72e2ap+0, -0x1.ef3691c309278p-58},
    {0x1.431f5d950a897p+0, -0x1.1c7dde35f7999p-55},
    {0x1.44e086061892dp+0, 0x1.89b7a04ef80d0p-59},
    {0x1.46a41ed1d0057p+0, 0x1.c944bd1648a76p-54},
    {0x1.486a2b5c13cd0p+0, 0x1.3c1a3b69062f0p-56},
    {0x1.4a32af0d7d3dep+0, 0x1.9cb62f3d1be56p-54},
    {0x1.4bfdad5362a27p+0, 0x1.d4397afec42e2p-56},
    {0x1.4dcb299fddd0dp+0, 0x1.8ecdbbc6a7833p-54},
    {0x1.4f9b2769d2ca7p+0, -0x1.4b309d25957e3p-54},
    {0x1.516daa2cf6642p+0, -0x1.f768569bd93efp-55},
    {0x1.5342b569d4f82p+0, -0x1.07abe1db13cadp-55},
    {0x1.551a4ca5d920fp+0, -0x1.d689cefede59bp-55},
    {0x1.56f4736b527dap+0, 0x1.9bb2c011d93adp-54},
    {0x1.58d12d497c7fdp+0, 0x1.295e15b9a1de8p-55},
    {0x1.5ab07dd485429p+0, 0x1.6324c054647adp-54},
    {0x1.5c9268a5946b7p+0, 0x1.c4b1b816986a2p-60},
    {0x1.5e76f15ad2148p+0, 0x1.ba6f93080e65ep-54},
    {0x1.605e1b976dc09p+0, -0x1.3e2429b56de47p-54},
    {0x1.6247eb03a5585p+0, -0x1.383c17e40b497p-54},
    {0x1.6434634ccc320p+0, -0x1.c483c759d8933p-55},
    {0x1.6623882552225p+0, -0x1.bb60987591c34p-54},
    {0x1.68155d44ca973p+0, 0x1.038ae44f73e65p-57},
    {0x1.6a09e667f3bcdp+0, -0x1.bdd3413b26456p-54},
    {0x1.6c012750bdabfp+0, -0x1.2895667ff0b0dp-56},
    {0x1.6dfb23c651a2fp+0, -0x1.bbe3a683c88abp-57},
    {0x1.6ff7df9519484p+0, -0x1.83c0f25860ef6p-55},
    {0x1.71f75e8ec5f74p+0, -0x1.16e4786887a99p-55},
    {0x1.73f9a48a58174p+0, -0x1.0a8d96c65d53cp-54},
    {0x1.75feb564267c9p+0, -0x1.0245957316dd3p-54},
    {0x1.780694fde5d3fp+0, 0x1.866b80a02162dp-54},
    {0x1.7a11473eb0187p+0, -0x1.41577ee04992fp-55},
    {0x1.7c1ed0130c132p+0, 0x1.f124cd1164dd6p-54},
    {0x1.7e2f336cf4e62p+0, 0x1.05d02ba15797ep-56},
    {0x1.80427543e1a12p+0, -0x1.27c86626d972bp-54},
    {0x1.82589994cce13p+0, -0x1.d4c1dd41532d8p-54},
    {0x1.8471a4623c7adp+0, -0x1.8d684a341cdfbp-55},
    {0x1.868d99b4492edp+0, -0x1.fc6f89bd4f6bap-54},
    {0x1.88ac7d98a6699p+0, 0x1.994c2f37cb53ap-54},
    {0x1.8ace5422aa0dbp+0, 0x1.6e9f156864b27p-54},
    {0x1.8cf3216b5448cp+0, -0x1.0d55e32e9e3aap-56},
    {0x1.8f1ae99157736p+0, 0x1.5cc13a2e3976cp-55},
    {0x1.9145b0b91ffc6p+0, -0x1.dd6792e582524p-54},
    {0x1.93737b0cdc5e5p+0, -0x1.75fc781b57ebcp-57},
    {0x1.95a44cbc8520fp+0, -0x1.64b7c96a5f039p-56},
    {0x1.97d829fde4e50p+0, -0x1.d185b7c1b85d1p-54},
    {0x1.9a0f170ca07bap+0, -0x1.173bd91cee632p-54},
    {0x1.9c49182a3f090p+0, 0x1.c7c46b071f2bep-56},
    {0x1.9e86319e32323p+0, 0x1.824ca78e64c6ep-56},
    {0x1.a0c667b5de565p+0, -0x1.359495d1cd533p-54},
    {0x1.a309bec4a2d33p+0, 0x1.6305c7ddc36abp-54},
    {0x1.a5503b23e255dp+0, -0x1.d2f6edb8d41e1p-54},
    {0x1.a799e1330b358p+0, 0x1.bcb7ecac563c7p-54},
    {0x1.a9e6b5579fdbfp+0, 0x1.0fac90ef7fd31p-54},
    {0x1.ac36bbfd3f37ap+0, -0x1.f9234cae76cd0p-55},
    {0x1.ae89f995ad3adp+0, 0x1.7a1cd345dcc81p-54},
    {0x1.b0e07298db666p+0, -0x1.bdef54c80e425p-54},
    {0x1.b33a2b84f15fbp+0, -0x1.2805e3084d708p-57},
    {0x1.b59728de5593ap+0, -0x1.c71dfbbba6de3p-54},
    {0x1.b7f76f2fb5e47p+0, -0x1.5584f7e54ac3bp-56},
    {0x1.ba5b030a1064ap+0, -0x1.efcd30e54292ep-54},
    {0x1.bcc1e904bc1d2p+0, 0x1.23dd07a2d9e84p-55},
    {0x1.bf2c25bd71e09p+0, -0x1.efdca3f6b9c73p-54},
    {0x1.c199bdd85529cp+0, 0x1.11065895048ddp-55},
    {0x1.c40ab5fffd07ap+0, 0x1.b4537e083c60ap-54},
    {0x1.c67f12e57d14bp+0, 0x1.2884dff483cadp-54},
    {0x1.c8f6d9406e7b5p+0, 0x1.1acbc48805c44p-56},
    {0x1.cb720dcef9069p+0, 0x1.503cbd1e949dbp-56},
    {0x1.cdf0b555dc3fap+0, -0x1.dd83b53829d72p-55},
    {0x1.d072d4a07897cp+0, -0x1.cbc3743797a9cp-54},
    {0x1.d2f87080d89f2p+0, -0x1.d487b719d8578p-54},
    {0x1.d5818dcfba487p+0, 0x1.2ed02d75b3707p-55},
    {0x1.d80e316c98398p+0, -0x1.11ec18beddfe8p-54},
    {0x1.da9e603db3285p+0, 0x1.c2300696db532p-54},
    {0x1.dd321f301b460p+0, 0x1.2da5778f018c3p-54},
    {0x1.dfc97337b9b5fp+0, -0x1.1a5cd4f184b5cp-54},
    {0x1.e264614f5a129p+0, -0x1.7b627817a1496p-54},
    {0x1.e502ee78b3ff6p+0, 0x1.39e8980a9cc8fp-55},
    {0x1.e7a51fbc74c83p+0, 0x1.2d522ca0c8de2p-54},
    {0x1.ea4afa2a490dap+0, -0x1.e9c23179c2893p-54},
    {0x1.ecf482d8e67f1p+0, -0x1.c93f3b411ad8cp-54},
    {0x1.efa1bee615a27p+0, 0x1.dc7f486a4b6b0p-54},
    {0x1.f252b376bba97p+0, 0x1.3a1a5bf0d8e43p-54},
    {0x1.f50765b6e4540p+0, 0x1.9d3e12dd8a18bp-54},
    {0x1.f7bfdad9cbe14p+0, -0x1.dbb12d006350ap-54},
    {0x1.fa7c1819e90d8p+0, 0x1.74853f3a5931ep-55},
    {0x1.fd3c22b8f71f1p+0, 0x1.2eb74966579e7p-57},
};
static const double NEG_LOG_TABLE[65][2] __attribute__((aligned(64))) = {
    {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56},
    {0x1.5af405c3649e0p-1, -0x1.6714fbcd8135bp-55},
    {0x1.5322e26867857p-1, 0x1.988ba4aea614dp-56},
    {0x1.4b6fd6f970c1fp-1, 0x1.c457b531506f6p-55},
    {0x1.43d9ff2f923c5p-1, -0x1.84f481051f71ap-56},
    {0x1.3c6080c36bfb5p-1, 0x1.1930603d87b6ep-56},
    {0x1.35028ad9d8c86p-1, -0x1.f01ab6065515cp-56},
    {0x1.2dbf557b0df43p-1, -0x1.b941ee770436bp-56},
    {0x1.269621134db92p-1, 0x1.e0efadd9db02bp-55},
    {0x1.1f8635fc61659p-1, -0x1.2164ff40e9817p-56},
    {0x1.188ee40f23ca6p-1, 0x1.89df1568ca0b0p-55},
    {0x1.11af823c75aa8p-1, -0x1.91eee7772c7c2p-55},
    {0x1.0ae76e2d054fap-1, 0x1.0d710fcfc4e0dp-55},
    {0x1.04360be7603adp-1, -0x1.17f9e54e78104p-57},
    {0x1.fb358af7a4884p-2, 0x1.7e8f05924d259p-57},
    {0x1.ee2a156b413e5p-2, -0x1.74b71fb5e57e3p-62},
    {0x1.e148a1a2726cep-2, -0x1.ac81cc8a4dfb8p-56},
    {0x1.d490246defa6bp-2, 0x1.d7f4d3b3d406bp-56},
    {0x1.c7ff9c74554c9p-2, 0x1.223eadb651b4ap-57},
    {0x1.bb9611b80e2fbp-2, 0x1.6fd02999b21e1p-59},
    {0x1.af5295248cdd0p-2, 0x1.9d56c45dd3e86p-56},
    {0x1.a33440224fa79p-2, -0x1.ba8062860ae23p-57},
    {0x1.973a3431356aep-2, -0x1.89d2816cf838fp-57},
    {0x1.8b639a88b2df5p-2, -0x1.70f2f38238303p-56},
    {0x1.7fafa3bd8151cp-2, -0x1.219024acd3b77p-58},
    {0x1.741d876c67bb1p-2, 0x1.84a4ee3059583p-56},
    {0x1.68ac83e9c6a14p-2, 0x1.a64eadd740178p-58},
    {0x1.5d5bddf595f30p-2, -0x1.6541148cbb8a2p-56},
    {0x1.522ae0738a3d8p-2, -0x1.8f7e9b38a6979p-57},
    {0x1.4718dc271c41bp-2, 0x1.8fb4c14c56eefp-60},
    {0x1.3c25277333184p-2, -0x1.2ad27e50a8ec6p-56},
    {0x1.314f1e1d35ce4p-2, -0x1.3d69909e5c3dcp-56},
    {0x1.269621134db92p-2, 0x1.e0efadd9db02bp-56},
    {0x1.1bf99635a6b95p-2, -0x1.12aeb84249223p-57},
    {0x1.1178e8227e47cp-2, -0x1.0e63a5f01c691p-57},
    {0x1.07138604d5862p-2, 0x1.cdb16ed4e9138p-56},
    {0x1.f991c6cb3b379p-3, 0x1.f665066f980a2p-57},
    {0x1.e530effe71012p-3, 0x1.2276041f43042p-59},
    {0x1.d1037f2655e7bp-3, 0x1.60629242471a2p-57},
    {0x1.bd087383bd8adp-3, 0x1.dd355f6a516d7p-60},
    {0x1.a93ed3c8ad9e3p-3, 0x1.bcafa9de97203p-57},
    {0x1.95a5adcf7017fp-3, 0x1.142c507fb7a3dp-58},
    {0x1.823c16551a3c2p-3, -0x1.1232ce70be781p-57},
    {0x1.6f0128b756abcp-3, -0x1.8de59c21e166cp-57},
    {0x1.5bf406b543db2p-3, -0x1.1f5b44c0df7e7p-61},
    {0x1.4913d8333b561p-3, -0x1.0d5604930f135p-58},
    {0x1.365fcb0159016p-3, 0x1.7d411a5b944adp-58},
    {0x1.23d712a49c202p-3, -0x1.6e38161051d69p-57},
    {0x1.1178e8227e47cp-3, -0x1.0e63a5f01c691p-58},
    {0x1.fe89139dbd566p-4, -0x1.ac9f4215f9393p-58},
    {0x1.da727638446a2p-4, 0x1.401fa71733019p-58},
    {0x1.b6ac88dad5b1cp-4, -0x1.0057eed1ca59fp-59},
    {0x1.9335e5d594989p-4, -0x1.478a85704ccb7p-58},
    {0x1.700d30aeac0e1p-4, -0x1.72566212cdd05p-61},
    {0x1.4d3115d207eacp-4, 0x1.769f42c7842ccp-58},
    {0x1.2aa04a44717a5p-4, -0x1.d15d38d2fa3f7p-58},
    {0x1.08598b59e3a07p-4, -0x1.dd7009902bf32p-58},
    {0x1.ccb73cdddb2ccp-5, -0x1.e48fb0500efd4p-59},
    {0x1.894aa149fb343p-5, 0x1.a8be97660a23dp-60},
    {0x1.466aed42de3eap-5, -0x1.cdd6f7f4a137ep-59},
    {0x1.0415d89e74444p-5, 0x1.c05cf1d753622p-59},
    {0x1.8492528c8cabfp-6, -0x1.d192d0619fa67p-60},
    {0x1.0205658935847p-6, 0x1.27c8e8416e71fp-60},
    {0x1.010157588de71p-7, 0x1.46662d417ced0p-62},
    {0x0.0p+0, 0x0.0p+0},
};
