/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Both sides of a migration, as vfiomig(7) shows them; a test compiles this. */
#include <stdint.h>
#include <sys/types.h>
#include <vfiomig.h>

/* What the VMM provides. */
int send_all(int sock, const void *data, size_t len);
ssize_t receive(int sock, void *data, size_t len);
int switchover_wanted(struct vfiomig_save *save);
void wait_a_little(struct vfiomig_save *save);
int peer_committed(int sock);
void tell_peer(int sock, const char *text);
void stop_vcpus(void);
void start_vcpus(void);
void make_fixups(struct vfiomig_device *dev);
int migrate_out(int device_fd, int sock);
int migrate_in(int device_fd, int sock);

/* SOURCE */
int migrate_out(int device_fd, int sock)
{
    static char buf[VFIOMIG_GOOD_BUFFER];
    struct vfiomig_device *dev = NULL;
    struct vfiomig_save *save = NULL;
    size_t len;
    int r;

    r = vfiomig_device_new_fd(device_fd, NULL, &dev);
    if (r < 0)
        return r;
    r = vfiomig_save_begin(dev, NULL, &save);     /* RUNNING to PRE_COPY */
    if (r < 0)
        goto out;

    for (;;) {                                    /* while the guest runs */
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        if (r < 0 || send_all(sock, buf, len) < 0)
            goto keep;
        if (r == VFIOMIG_NEXT_DRAINED) {
            if (switchover_wanted(save))
                break;
            wait_a_little(save);
        }
    }

    stop_vcpus();
    r = vfiomig_save_stop(save);                  /* to STOP_COPY */
    if (r < 0)
        goto keep;
    do {
        r = vfiomig_save_next(save, buf, sizeof buf, &len);
        if (r < 0 || send_all(sock, buf, len) < 0)
            goto keep;
    } while (r != VFIOMIG_NEXT_END);

    if (peer_committed(sock)) {
        r = vfiomig_save_finish(save, VFIOMIG_ENDING_RELEASE);  /* to STOP */
        goto out;
    }
keep:
    if (vfiomig_save_finish(save, VFIOMIG_ENDING_KEEP) == 0)  /* back to RUNNING */
        start_vcpus();
out:
    vfiomig_save_free(save);
    vfiomig_device_free(dev);
    return r;
}

/* TARGET */
int migrate_in(int device_fd, int sock)
{
    struct vfiomig_device *dev = NULL;
    struct vfiomig_load *load = NULL;
    void *space;
    size_t len;
    int r;

    r = vfiomig_device_new_fd(device_fd, NULL, &dev);
    if (r < 0)
        return r;
    r = vfiomig_load_begin(dev, NULL, &load);     /* to RESUMING */
    while (r >= 0 && !(r & VFIOMIG_PUSH_END)) {
        r = vfiomig_load_get_space(load, &space, &len);
        if (r < 0)
            break;
        ssize_t n = receive(sock, space, len);
        if (n <= 0)
            break;                                /* commit will refuse */
        r = vfiomig_load_push_received(load, (size_t)n);
        if (r >= 0 && (r & VFIOMIG_PUSH_INITIAL_LOADED))
            tell_peer(sock, "initial data loaded");
    }
    if (r >= 0)
        r = vfiomig_load_commit(load);            /* RESUMING to STOP */
    tell_peer(sock, r < 0 ? vfiomig_error_message() : "committed");
    if (r == 0) {
        make_fixups(dev);       /* what vfiomig_device_get_fixups() names */
        r = vfiomig_device_run(dev);              /* to RUNNING */
    }
    vfiomig_load_free(load);
    vfiomig_device_free(dev);
    return r;
}
