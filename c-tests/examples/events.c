/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the manual shows of events: a VMM's event loop hears of what happens to its devices. */
#include <poll.h>

#include "examples.h"

enum { DEVICES = 2 };

static int verdicts, ends, failures, said;

static void tell_user(const struct vfiomig_event *event)
{
    said += event->text[0] != '\0';
}

/* EXAMPLE vfiomig_group_get_event_fd */
/* Before the devices are added, so that nothing is missed. The
   descriptor goes into the VMM's event loop. */
static int watch_events(struct vfiomig_group *group,
                        struct pollfd *entry)
{
    int fd = vfiomig_group_get_event_fd(group);

    if (fd < 0)               /* the migration goes on without */
        return fd;
    entry->fd = fd;
    entry->events = POLLIN;
    return 0;
}
/* END */

/* EXAMPLE vfiomig_group_next_event */
/* The event loop has found the descriptor readable. */
static void on_events(struct vfiomig_group *group)
{
    struct vfiomig_event event = VFIOMIG_EVENT_INIT;

    while (vfiomig_group_next_event(group, &event) == 0) {
        if (event.lost)
            printf("%llu events were missed\n",
                   (unsigned long long)event.lost);
        switch (event.kind) {
        case VFIOMIG_EVENT_LAST_DATA:
        case VFIOMIG_EVENT_LOAD_COMPLETE:
            printf("device %u: %llu bytes, the last\n", event.device,
                   (unsigned long long)event.bytes);
            ends++;
            break;
        case VFIOMIG_EVENT_VERDICT:
            verdicts++;
            tell_user(&event);  /* "go_on: data_left, device 1" */
            break;
        case VFIOMIG_EVENT_ERROR:
            failures++;
            tell_user(&event);
            break;
        }                     /* others may come */
    }
}
/* END */

/* EXAMPLE vfiomig_device_get_event_fd vfiomig_device_next_event */
/* A thread that waits for a reset of a device that has no group. */
static int wait_for_reset(struct vfiomig_device *dev, int timeout_ms)
{
    struct vfiomig_event event = VFIOMIG_EVENT_INIT;
    struct pollfd entry = { .events = POLLIN };
    int r;

    entry.fd = vfiomig_device_get_event_fd(dev);
    if (entry.fd < 0)
        return entry.fd;
    for (;;) {
        r = vfiomig_device_next_event(dev, &event);
        if (r == 0 && event.kind == VFIOMIG_EVENT_RESET)
            return (int)event.cause;
        if (r == -EAGAIN && poll(&entry, 1, timeout_ms) <= 0)
            return -ETIMEDOUT;
        if (r < 0 && r != -EAGAIN)
            return r;
    }
}
/* END */

static void an_event_loop_hears_of_a_vm(void)
{
    struct vfiomig_group_options options = VFIOMIG_GROUP_OPTIONS_INIT;
    struct vfiomig_decision decision = VFIOMIG_DECISION_INIT;
    struct rig rigs[DEVICES];
    struct vfiomig_group *group;
    struct vfiomig_estimate *estimate;
    struct pollfd entry = { .fd = -1 };
    char buf[VFIOMIG_GROUP_GOOD_BUFFER];
    size_t len;
    options.role = VFIOMIG_GROUP_ROLE_SOURCE;
    OK(vfiomig_group_new(&options, &group));
    OK(watch_events(group, &entry));
    EQ(poll(&entry, 1, 0), 0);
    for (int i = 0; i < DEVICES; i++) {
        rigs[i] = rig_new(NULL, NULL);
        OK(vfiomig_group_add_save(group, rigs[i].dev, NULL));
    }
    OK(vfiomig_group_begin(group));
    EQ(poll(&entry, 1, 0), 1);
    OK(vfiomig_group_get_estimate(group, &estimate));
    OK(vfiomig_estimate_decide(estimate, 0, 1000000, 0, &decision));
    vfiomig_estimate_free(estimate);
    OK(vfiomig_group_stop(group));
    while (vfiomig_group_next(group, buf, sizeof buf, &len) != VFIOMIG_NEXT_END)
        ;
    on_events(group);
    EQ(poll(&entry, 1, 0), 0);
    EQ(ends, DEVICES);
    EQ(verdicts, 1);
    EQ(failures, 0);
    EQ(said, 1);
    vfiomig_group_free(group);
    for (int i = 0; i < DEVICES; i++)
        rig_free(&rigs[i]);
}

static void a_reset_is_waited_for(void)
{
    struct rig rig = rig_new(NULL, NULL);
    EQ(wait_for_reset(rig.dev, 0), -ETIMEDOUT);
    OK(vfiomig_device_reset(rig.dev));
    EQ(wait_for_reset(rig.dev, 0), VFIOMIG_CAUSE_ASKED);
    rig_free(&rig);
}

int main(void)
{
    RUN(an_event_loop_hears_of_a_vm);
    RUN(a_reset_is_waited_for);
    return DONE();
}
