/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* One stream of a checkpoint, loaded into many devices at once, by as many threads. */
#ifndef FAN_OUT_H
#define FAN_OUT_H

#include <pthread.h>

#include "rig.h"

struct loader {
    struct vfiomig_restore *restore;
    const char *name;
    struct rig rig;
    int result;
};

static void *load_one(void *opaque)
{
    struct loader *loader = opaque;
    loader->result = vfiomig_restore_load(loader->restore, loader->name, loader->rig.dev, NULL);
    return NULL;
}

/* All of them succeed, and their devices have the contents of `original`. */
static void load_into_many(struct vfiomig_restore *restore, const char *name, const struct rig *original)
{
    enum { MANY = 8 };
    struct loader loaders[MANY];
    pthread_t threads[MANY];
    for (int i = 0; i < MANY; i++) {
        loaders[i] = (struct loader){ restore, name, rig_target(NULL), -1 };
        CHECK(pthread_create(&threads[i], NULL, load_one, &loaders[i]) == 0);
    }
    for (int i = 0; i < MANY; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < MANY; i++) {
        EQ(loaders[i].result, 0);
        CHECK(vfiomig_sim_digest(loaders[i].rig.sim) == vfiomig_sim_digest(original->sim));
        rig_free(&loaders[i].rig);
    }
}

#endif
