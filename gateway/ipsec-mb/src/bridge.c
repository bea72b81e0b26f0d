/* What `lib.rs` needs of intel-ipsec-mb: keys, and a burst of ESP packets. See there for the contracts. */
#include <intel-ipsec-mb.h>
#include <stdlib.h>
#include <string.h>

enum { ESP_HEADER = 8, GCM_IV = 8, GCM_SALT = 4, GCM_TAG = 16, BLOCK = 16, KEY_ALIGNMENT = 64 };

struct cbc_hmac {
	DECLARE_ALIGNED(uint8_t encrypt[15 * BLOCK], 16);
	DECLARE_ALIGNED(uint8_t decrypt[15 * BLOCK], 16);
	uint8_t inner[IMB_SHA512_DIGEST_SIZE_IN_BYTES];
	uint8_t outer[IMB_SHA512_DIGEST_SIZE_IN_BYTES];
	IMB_HASH_ALG hash;
	uint32_t icv_len;
};

struct gw_mb_key {
	union {
		struct gcm_key_data gcm;
		struct cbc_hmac cbc;
	};
	uint8_t salt[GCM_SALT];
	uint8_t is_gcm;
	uint8_t key_len;
};

/* The same as `RawJob` in lib.rs. */
struct gw_mb_job {
	const struct gw_mb_key *key;
	uint8_t *esp;
	size_t len;
	uint32_t sequence_high;
	uint8_t is_extended;
	uint8_t is_seal;
	uint8_t is_done;
	uint8_t icv_len;
	uint8_t tag[64];
	uint8_t nonce[16];
	uint8_t aad[16];
};

IMB_MGR *gw_mb_manager_new(void)
{
	IMB_MGR *manager = alloc_mb_mgr(0);
	if (manager == NULL)
		return NULL;
	init_mb_mgr_auto(manager, NULL);
	if (imb_get_errno(manager) != 0) {
		free_mb_mgr(manager);
		return NULL;
	}
	return manager;
}

void gw_mb_manager_free(IMB_MGR *manager)
{
	free_mb_mgr(manager);
}

static struct gw_mb_key *key_new(void)
{
	size_t size = (sizeof(struct gw_mb_key) + KEY_ALIGNMENT - 1) / KEY_ALIGNMENT * KEY_ALIGNMENT;
	struct gw_mb_key *key = aligned_alloc(KEY_ALIGNMENT, size);
	if (key != NULL)
		memset(key, 0, size);
	return key;
}

void gw_mb_key_free(struct gw_mb_key *key)
{
	explicit_bzero(key, sizeof(*key));
	free(key);
}

size_t gw_mb_key_size(void)
{
	return sizeof(struct gw_mb_key);
}

size_t gw_mb_key_icv_len(const struct gw_mb_key *key)
{
	return key->is_gcm ? GCM_TAG : key->cbc.icv_len;
}

struct gw_mb_key *gw_mb_key_gcm(IMB_MGR *manager, const uint8_t *octets, size_t len, const uint8_t *salt)
{
	struct gw_mb_key *key = key_new();
	if (key == NULL)
		return NULL;
	key->is_gcm = 1;
	key->key_len = (uint8_t)len;
	memcpy(key->salt, salt, GCM_SALT);
	if (len == IMB_KEY_128_BYTES)
		IMB_AES128_GCM_PRE(manager, octets, &key->gcm);
	else
		IMB_AES256_GCM_PRE(manager, octets, &key->gcm);
	return key;
}

/* One block of the hash over the key combined with `pad` (RFC 2104). */
static void hash_pad(IMB_MGR *manager, IMB_HASH_ALG hash, const uint8_t *octets, size_t len, uint8_t pad, uint8_t *state)
{
	uint8_t block[IMB_SHA_512_BLOCK_SIZE];
	memset(block, pad, sizeof(block));
	for (size_t at = 0; at < len; at++)
		block[at] ^= octets[at];
	if (hash == IMB_AUTH_HMAC_SHA_256)
		IMB_SHA256_ONE_BLOCK(manager, block, state);
	else if (hash == IMB_AUTH_HMAC_SHA_384)
		IMB_SHA384_ONE_BLOCK(manager, block, state);
	else
		IMB_SHA512_ONE_BLOCK(manager, block, state);
	explicit_bzero(block, sizeof(block));
}

/* The integrity key is as long as the hash's output: 32, 48 or 64 octets (RFC 4868 section 2.1.1). */
struct gw_mb_key *gw_mb_key_cbc(IMB_MGR *manager, const uint8_t *octets, size_t len, const uint8_t *integrity,
				size_t integrity_len)
{
	struct gw_mb_key *key = key_new();
	if (key == NULL)
		return NULL;
	struct cbc_hmac *cbc = &key->cbc;
	key->key_len = (uint8_t)len;
	cbc->hash = integrity_len == 32	  ? IMB_AUTH_HMAC_SHA_256
		    : integrity_len == 48 ? IMB_AUTH_HMAC_SHA_384
					  : IMB_AUTH_HMAC_SHA_512;
	cbc->icv_len = (uint32_t)integrity_len / 2;
	if (len == IMB_KEY_128_BYTES)
		IMB_AES_KEYEXP_128(manager, octets, cbc->encrypt, cbc->decrypt);
	else
		IMB_AES_KEYEXP_256(manager, octets, cbc->encrypt, cbc->decrypt);
	hash_pad(manager, cbc->hash, integrity, integrity_len, 0x36, cbc->inner);
	hash_pad(manager, cbc->hash, integrity, integrity_len, 0x5c, cbc->outer);
	return key;
}

static void put_high(uint8_t *at, uint32_t high)
{
	at[0] = (uint8_t)(high >> 24);
	at[1] = (uint8_t)(high >> 16);
	at[2] = (uint8_t)(high >> 8);
	at[3] = (uint8_t)high;
}

/* RFC 4106 sections 3 to 5. */
static void fill_gcm(IMB_JOB *job, struct gw_mb_job *want)
{
	const struct gw_mb_key *key = want->key;
	size_t aad_len = ESP_HEADER;
	memcpy(want->nonce, key->salt, GCM_SALT);
	memcpy(want->nonce + GCM_SALT, want->esp + ESP_HEADER, GCM_IV);
	if (want->is_extended) {
		memcpy(want->aad, want->esp, 4);
		put_high(want->aad + 4, want->sequence_high);
		memcpy(want->aad + 8, want->esp + 4, 4);
		aad_len += 4;
	} else {
		memcpy(want->aad, want->esp, ESP_HEADER);
	}
	job->cipher_mode = IMB_CIPHER_GCM;
	job->hash_alg = IMB_AUTH_AES_GMAC;
	job->enc_keys = &key->gcm;
	job->dec_keys = &key->gcm;
	job->src = want->esp + ESP_HEADER + GCM_IV;
	job->dst = want->esp + ESP_HEADER + GCM_IV;
	job->cipher_start_src_offset_in_bytes = 0;
	job->msg_len_to_cipher_in_bytes = want->len - ESP_HEADER - GCM_IV - GCM_TAG;
	job->hash_start_src_offset_in_bytes = 0;
	job->msg_len_to_hash_in_bytes = job->msg_len_to_cipher_in_bytes;
	job->iv = want->nonce;
	job->iv_len_in_bytes = GCM_SALT + GCM_IV;
	job->u.GCM.aad = want->aad;
	job->u.GCM.aad_len_in_bytes = aad_len;
}

/* RFC 3602, RFC 4868; the high half of an extended number is authenticated behind the text (RFC 4303 section 2.2.1), where
 * the ICV has its place: that one was saved before. */
static void fill_cbc(IMB_JOB *job, struct gw_mb_job *want)
{
	const struct gw_mb_key *key = want->key;
	size_t icv_at = want->len - key->cbc.icv_len;
	size_t hashed = icv_at;
	if (want->is_extended) {
		put_high(want->esp + icv_at, want->sequence_high);
		hashed += 4;
	}
	job->cipher_mode = IMB_CIPHER_CBC;
	job->hash_alg = key->cbc.hash;
	job->enc_keys = key->cbc.encrypt;
	job->dec_keys = key->cbc.decrypt;
	job->src = want->esp;
	job->dst = want->esp + ESP_HEADER + BLOCK;
	job->cipher_start_src_offset_in_bytes = ESP_HEADER + BLOCK;
	job->msg_len_to_cipher_in_bytes = icv_at - ESP_HEADER - BLOCK;
	job->hash_start_src_offset_in_bytes = 0;
	job->msg_len_to_hash_in_bytes = hashed;
	job->iv = want->esp + ESP_HEADER;
	job->iv_len_in_bytes = BLOCK;
	job->u.HMAC._hashed_auth_key_xor_ipad = key->cbc.inner;
	job->u.HMAC._hashed_auth_key_xor_opad = key->cbc.outer;
}

static void complete(const IMB_JOB *job)
{
	struct gw_mb_job *want = job->user_data;
	want->is_done = job->status == IMB_STATUS_COMPLETED;
}

void gw_mb_run(IMB_MGR *manager, struct gw_mb_job *jobs, size_t count)
{
	IMB_JOB *job;
	for (size_t at = 0; at < count; at++) {
		struct gw_mb_job *want = &jobs[at];
		job = IMB_GET_NEXT_JOB(manager);
		if (want->key->is_gcm)
			fill_gcm(job, want);
		else
			fill_cbc(job, want);
		job->key_len_in_bytes = want->key->key_len;
		job->cipher_direction = want->is_seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
		job->chain_order = want->is_seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
		job->auth_tag_output = want->tag;
		job->auth_tag_output_len_in_bytes = want->icv_len;
		job->user_data = want;
		for (job = IMB_SUBMIT_JOB(manager); job != NULL; job = IMB_GET_COMPLETED_JOB(manager))
			complete(job);
	}
	while ((job = IMB_FLUSH_JOB(manager)) != NULL)
		complete(job);
}
