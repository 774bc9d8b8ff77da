#include "io/manifest.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void fm_manifest_free(fm_manifest *m) {
    free(m->files);
    free(m->text);
    *m = (fm_manifest){0};
}

fm_status fm_manifest_add(fm_error *err, fm_manifest *m, const fm_manifest_file *f) {
    if ((m->n_files & (m->n_files - 1)) == 0) { /* room for twice as many at each power of two */
        size_t room = m->n_files > 0 ? 2 * (size_t)m->n_files : 1;
        fm_manifest_file *grown = realloc(m->files, room * sizeof *grown);
        FM_REQUIRE(err, grown, FM_ERR_OOM, "out of memory: the list of files");
        m->files = grown;
    }
    m->files[m->n_files++] = *f;
    return FM_OK;
}

fm_status fm_manifest_add_name(fm_error *err, fm_manifest *m, const char *name) {
    fm_manifest_file f = {0};
    snprintf(f.name, sizeof f.name, "%s", name);
    return fm_manifest_add(err, m, &f);
}

static json_t *file_list(int64_t n, const fm_manifest_file *list) {
    json_t *files = json_array();
    for (int64_t i = 0; files && i < n; i++) {
        const fm_manifest_file *f = &list[i];
        json_t *one = json_pack("{s:s, s:I, s:s}", "name", f->name, "bytes", (json_int_t)f->bytes,
                                "xxh3_128", f->hash);
        if (json_array_append_new(files, one) != 0) json_decref(files), files = NULL;
    }
    return files;
}

/* XXH3-128 of the manifest without its member "checksum", compact, keys sorted; false: no memory. */
static bool checksum(const json_t *root, char hash[FM_HASH]) {
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    if (text) fm_disk_hash_text(text, hash);
    free(text);
    return text != NULL;
}

fm_status fm_manifest_write(fm_error *err, fm_io_env *env, const char *path, const fm_manifest *m) {
    const fm_mesh_config *c = &m->layout;
    json_t *root = json_pack("{s:s, s:i, s:I, s:{s:i, s:i, s:i, s:i, s:i, s:i, s:i}, s:o}",
                             "format", "fmoe checkpoint", "version", FM_MANIFEST_VERSION, "step",
                             (json_int_t)m->step, "layout", "world_size", m->world_size, "dp",
                             m->dp, "tp", c->tp, "pp", c->pp, "ep", c->ep, "etp", c->etp, "zero",
                             c->zero, "files", file_list(m->n_files, m->files));
    char hash[FM_HASH];
    bool whole = root && checksum(root, hash) &&
                 json_object_set_new(root, "checksum", json_string(hash)) == 0;
    char *text = whole ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    fm_status status = FM_OK;
    FM_REQUIRE_GOTO(err, text, FM_ERR_OOM, "out of memory: %s", path);
    FM_REQUIRE_GOTO(err, strlen(text) <= FM_MANIFEST_LIMIT, FM_ERR_VALUE,
                    "%s: %zu bytes for %lld files; allowed are %d", path, strlen(text),
                    (long long)m->n_files, FM_MANIFEST_LIMIT);
    status = fm_disk_write(err, env, path, text, false);
out:
    free(text);
    json_decref(root);
    return status;
}

/* Names lead nowhere else: no separators, no dot in front. */
static bool is_plain_name(const char *name) {
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof((fm_manifest_file *)0)->name || name[0] == '.') return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] == '/' || (unsigned char)name[i] < ' ') return false;
    return true;
}

/* Adds them to out->files. */
static fm_status parse_files(fm_error *err, const char *path, const json_t *files,
                             fm_manifest *out) {
    size_t n = json_array_size(files);
    for (size_t i = 0; i < n; i++) {
        fm_manifest_file f = {0};
        const char *name, *hash;
        json_int_t bytes;
        json_error_t e;
        FM_REQUIRE(err,
                   json_unpack_ex(json_array_get(files, i), &e, 0, "{s:s, s:I, s:s}", "name", &name,
                                  "bytes", &bytes, "xxh3_128", &hash) == 0,
                   FM_ERR_CHECKPOINT, "%s: files[%zu]: %s", path, i, e.text);
        FM_REQUIRE(err, is_plain_name(name), FM_ERR_CHECKPOINT,
                   "%s: files[%zu]: '%s' is not the name of a file in its folder", path, i, name);
        FM_REQUIRE(err, bytes >= 0 && strlen(hash) == FM_HASH - 1, FM_ERR_CHECKPOINT,
                   "%s: files[%zu]: bytes or xxh3_128 is wrong", path, i);
        snprintf(f.name, sizeof f.name, "%s", name);
        snprintf(f.hash, sizeof f.hash, "%s", hash);
        f.bytes = bytes;
        FM_TRY(fm_manifest_add(err, out, &f));
    }
    return FM_OK;
}

fm_status fm_manifest_read(fm_error *err, const char *path, fm_manifest *out) {
    *out = (fm_manifest){0};
    json_t *root = NULL, *files;
    json_error_t e;
    const char *format;
    int version;
    json_int_t step;
    fm_status status = FM_OK;
    fm_mesh_config *c = &out->layout;
    FM_TRY_GOTO(fm_disk_read(err, path, FM_MANIFEST_LIMIT, &out->text));
    root = json_loads(out->text, JSON_REJECT_DUPLICATES, &e);
    FM_REQUIRE_GOTO(err, root, FM_ERR_CHECKPOINT, "%s: line %d: %s", path, e.line, e.text);
    FM_REQUIRE_GOTO(
        err,
        json_unpack_ex(root, &e, 0, "{s:s, s:i}", "format", &format, "version", &version) == 0 &&
            strcmp(format, "fmoe checkpoint") == 0,
        FM_ERR_CHECKPOINT, "%s: is not the manifest of a checkpoint", path);
    FM_REQUIRE_GOTO(err, version == FM_MANIFEST_VERSION, FM_ERR_CHECKPOINT,
                    "%s: is of version %d; this program reads version %d", path, version,
                    FM_MANIFEST_VERSION);
    FM_REQUIRE_GOTO(err,
                    json_unpack_ex(root, &e, 0, "{s:I, s:{s:i, s:i, s:i, s:i, s:i, s:i, s:i}, s:o}",
                                   "step", &step, "layout", "world_size", &out->world_size, "dp",
                                   &out->dp, "tp", &c->tp, "pp", &c->pp, "ep", &c->ep, "etp",
                                   &c->etp, "zero", &c->zero, "files", &files) == 0 &&
                        json_is_array(files) && step >= 0,
                    FM_ERR_CHECKPOINT, "%s: %s", path, e.text);
    out->step = step;
    FM_TRY_GOTO(parse_files(err, path, files, out));
    char wanted[FM_HASH], got[FM_HASH];
    const char *claimed = json_string_value(json_object_get(root, "checksum"));
    snprintf(wanted, sizeof wanted, "%s", claimed ? claimed : "missing");
    (void)json_object_del(root, "checksum"); /* where it is missing the comparison fails */
    FM_REQUIRE_GOTO(err, checksum(root, got), FM_ERR_OOM, "out of memory: %s", path);
    FM_REQUIRE_GOTO(err, strcmp(got, wanted) == 0, FM_ERR_CHECKPOINT,
                    "%s: its member checksum is %s; its contents give %s", path, wanted, got);
out:
    json_decref(root);
    if (status != FM_OK) fm_manifest_free(out);
    return status;
}

fm_status fm_manifest_part_path(fm_error *err, const char *tmp, int rank, char out[FM_PATH]) {
    char name[64];
    snprintf(name, sizeof name, "shards-%05d.json", rank);
    return fm_disk_join(err, out, tmp, name);
}

/* A message is no JSON where a path in it is no UTF-8. */
static json_t *text_of(const char *message) {
    json_t *text = json_string(message);
    char plain[sizeof((fm_error *)0)->message];
    if (text) return text;
    snprintf(plain, sizeof plain, "%s", message);
    for (char *c = plain; *c; c++)
        if ((unsigned char)*c >= 128) *c = '?';
    return json_string(plain);
}

fm_status fm_manifest_part_write(fm_error *err, fm_io_env *env, const char *tmp, int rank,
                                 const fm_manifest_part *p) {
    char path[FM_PATH], save[17];
    FM_TRY(fm_manifest_part_path(err, tmp, rank, path));
    snprintf(save, sizeof save, "%016llx", (unsigned long long)p->save);
    json_t *root = json_pack("{s:s, s:i, s:o, s:o}", "save", save, "status", (int)p->status,
                             "message", text_of(p->message), "files",
                             file_list(p->n_files, p->files));
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    fm_status status = text ? fm_disk_write(err, env, path, text, true)
                            : fm_fail(err, FM_ERR_OOM, "out of memory: %s", path);
    free(text);
    json_decref(root);
    return status;
}

fm_status fm_manifest_part_read(fm_error *err, const char *tmp, int rank, uint64_t save,
                                fm_manifest *m, bool *there) {
    char path[FM_PATH], wanted[17], *text = NULL;
    const char *found, *message;
    int code;
    json_t *files;
    json_error_t e;
    *there = false;
    FM_TRY(fm_manifest_part_path(err, tmp, rank, path));
    if (access(path, F_OK) != 0) return FM_OK;
    FM_TRY(fm_disk_read(err, path, FM_MANIFEST_LIMIT, &text));
    snprintf(wanted, sizeof wanted, "%016llx", (unsigned long long)save);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    fm_status status = FM_OK;
    FM_REQUIRE_GOTO(err,
                    root &&
                        json_unpack_ex(root, &e, 0, "{s:s, s:i, s:s, s:o}", "save", &found,
                                       "status", &code, "message", &message, "files", &files) == 0,
                    FM_ERR_IO, "%s: %s", path, e.text);
    if (strcmp(found, wanted) != 0) goto out;
    *there = true;
    FM_REQUIRE_GOTO(err, code == FM_OK, (fm_status)code, "rank %d: %s", rank, message);
    FM_TRY_GOTO(parse_files(err, path, files, m));
out:
    json_decref(root);
    free(text);
    return status;
}
