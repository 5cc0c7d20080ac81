/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of identities that travel, and of the judgement on two of them. */
#include "examples.h"

/* EXAMPLE vfiomig_identity_export */
/* Before it touches the guest, the source tells what its device is,
   over the VMM's own connection. */
static int send_identity(struct vfiomig_device *dev, FILE *out)
{
    struct vfiomig_identity id = VFIOMIG_IDENTITY_INIT;
    unsigned char buf[VFIOMIG_IDENTITY_BYTES];
    size_t len;
    int r = vfiomig_device_get_identity(dev, &id);

    if (r == 0)
        r = vfiomig_identity_export(&id, buf, sizeof buf, &len);
    if (r == 0 && (fwrite(&len, sizeof len, 1, out) != 1 ||
                   fwrite(buf, len, 1, out) != 1))
        r = -EIO;
    return r;
}
/* END */

/* EXAMPLE vfiomig_identity_import */
/* What send_identity() has sent. */
static int receive_identity(FILE *in, struct vfiomig_identity *id)
{
    unsigned char buf[VFIOMIG_IDENTITY_BYTES];
    size_t len;

    if (fread(&len, sizeof len, 1, in) != 1 || len > sizeof buf ||
        fread(buf, len, 1, in) != 1)
        return -EIO;
    return vfiomig_identity_import(buf, len, id);
}
/* END */

/* EXAMPLE vfiomig_compat_judge */
static void show(void *out,
                 const struct vfiomig_compat_reason *reason)
{
    int refused = reason->severity == VFIOMIG_SEVERITY_BLOCKS;

    fprintf(out, "%s: %s\n", refused ? "refused" : "passed",
            reason->text);
}

/* A scheduler's question: which host may take the device? */
static int choose(const struct vfiomig_identity *source,
                  const struct vfiomig_identity *hosts, int num)
{
    struct vfiomig_compat_policy policy =
        VFIOMIG_COMPAT_POLICY_INIT;
    struct vfiomig_compat_rule rule = VFIOMIG_COMPAT_RULE_INIT;
    struct vfiomig_verdict verdict = VFIOMIG_VERDICT_INIT;

    rule.field = VFIOMIG_FIELD_DRIVER_VERSION;
    rule.rule = VFIOMIG_RULE_RANGE;
    rule.min = "550.54";
    rule.max = "570.133";
    policy.rules = &rule;
    policy.num_rules = 1;
    for (int i = 0; i < num; i++)
        if (vfiomig_compat_judge(source, &hosts[i], &policy, show,
                                 stderr, &verdict) == 0)
            return i;
    return -EXDEV;
}
/* END */

static void an_identity_travels(void)
{
    struct rig rig = rig_new(NULL, NULL);
    struct vfiomig_identity here = VFIOMIG_IDENTITY_INIT, there = VFIOMIG_IDENTITY_INIT;
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    CHECK(out);
    OK(send_identity(rig.dev, out));
    fclose(out);
    FILE *in = fmemopen(text, len, "r");
    CHECK(in);
    OK(receive_identity(in, &there));
    fclose(in);
    OK(vfiomig_device_get_identity(rig.dev, &here));
    CHECK(memcmp(&here, &there, sizeof here) == 0);
    in = fmemopen(text, len - 1, "r");
    CHECK(in);
    EQ(receive_identity(in, &there), -EIO);
    fclose(in);
    free(text);
    rig_free(&rig);
}

static void a_host_is_chosen(void)
{
    struct vfiomig_identity hosts[3] = { VFIOMIG_IDENTITY_INIT, VFIOMIG_IDENTITY_INIT,
                                         VFIOMIG_IDENTITY_INIT };
    struct vfiomig_identity source = VFIOMIG_IDENTITY_INIT;
    const char *const versions[] = { "535.183", "570.133.1", "570.86" };
    strcpy(source.driver, "nvidia");
    strcpy(source.driver_version, "550.54.14");
    for (int i = 0; i < 3; i++) {
        strcpy(hosts[i].driver, "nvidia");
        strcpy(hosts[i].driver_version, versions[i]);
    }
    EQ(choose(&source, hosts, 3), 2);
    EQ(choose(&source, hosts, 2), -EXDEV);
    HAS(vfiomig_error_message(), "driver version 550.54.14 (target: 570.133.1): out of the range");
}

int main(void)
{
    RUN(an_identity_travels);
    RUN(a_host_is_chosen);
    return DONE();
}
