// Stands for the kernel of an image that boots: it prints what firmware wrote down of its measurements, and the PCRs, to the
// first serial port, and switches the machine off. Position independent, no relocations: entry must come first.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define EFIAPI __attribute__((ms_abi))

struct tcg2 {
	void *get_capability;
	u64 EFIAPI (*get_event_log)(struct tcg2 *, u32 format, u64 *log, u64 *last, u8 *truncated);
	void *hash_log_extend_event;
	u64 EFIAPI (*submit_command)(struct tcg2 *, u32 size, u8 *command, u32 answer_size, u8 *answer);
};

static void run(u8 *system_table);

__attribute__((section(".entry"))) u64 EFIAPI entry(void *image, u8 *system_table)
{
	(void)image;
	run(system_table);
	return 1;
}

static void put(u8 c)
{
	u8 status;
	do
		__asm__ volatile("inb %1, %0" : "=a"(status) : "Nd"((unsigned short)0x3fd));
	while (!(status & 0x20));
	__asm__ volatile("outb %0, %1" : : "a"(c), "Nd"((unsigned short)0x3f8));
}

static void put_hex(u8 b)
{
	u8 high = b >> 4, low = b & 15;
	put(high < 10 ? '0' + high : 'a' + high - 10);
	put(low < 10 ? '0' + low : 'a' + low - 10);
}

// line prints "@", a letter, bytes in hex, and a newline.
static void line(u8 kind, const u8 *b, u64 n)
{
	put('@');
	put(kind);
	while (n--)
		put_hex(*b++);
	put('\n');
}

static u32 le32(const u8 *b) { return b[0] | b[1] << 8 | b[2] << 16 | (u32)b[3] << 24; }

// last_event is the length of the event at b: TCG_PCR_EVENT2 with digests of the PC Client's hashes.
static u64 last_event(const u8 *b)
{
	u64 at = 12;
	for (u32 n = le32(b + 8); n > 0; n--) {
		switch (b[at] | b[at + 1] << 8) {
		case 0x04: at += 2 + 20; break;
		case 0x0b: at += 2 + 32; break;
		case 0x0c: at += 2 + 48; break;
		default: at += 2 + 64;
		}
	}
	return at + 4 + le32(b + at);
}

static void read_pcr(struct tcg2 *tcg, u8 bank, u8 index)
{
	u8 answer[128], command[20];
	for (u32 i = 0; i < sizeof command; i++)
		command[i] = 0;
	command[0] = 0x80, command[1] = 0x01, command[5] = sizeof command; // TPM_ST_NO_SESSIONS
	command[8] = 0x01, command[9] = 0x7e;                              // TPM2_PCR_Read
	command[13] = 1, command[15] = bank, command[16] = 3;
	command[17 + index / 8] = 1 << index % 8;
	if (tcg->submit_command(tcg, sizeof command, command, sizeof answer, answer) != 0)
		return;
	put('@'), put('P');
	put_hex(bank);
	put_hex(index);
	u32 size = answer[28] << 8 | answer[29]; // after header, counter, selection and count
	for (u32 i = 0; i < size && i < 64; i++)
		put_hex(answer[30 + i]);
	put('\n');
}

static void run(u8 *system_table)
{
	u8 *runtime = *(u8 **)(system_table + 88), *boot = *(u8 **)(system_table + 96);
	u64 EFIAPI (*locate)(const void *, void *, void **) = *(void **)(boot + 320);
	void EFIAPI (*reset)(u32, u64, u64, void *) = *(void **)(runtime + 104);
	volatile u8 guid[16];
	const u64 low = 0x42be7455607f766cUL, high = 0x0f72b26dd7e40b93UL;
	for (int i = 0; i < 8; i++)
		guid[i] = low >> 8 * i, guid[8 + i] = high >> 8 * i;
	struct tcg2 *tcg = 0;
	u64 log = 0, last = 0;
	u8 truncated = 0;
	if (locate((const void *)guid, 0, (void **)&tcg) == 0 && tcg->get_event_log(tcg, 2, &log, &last, &truncated) == 0 && log)
		line('L', (const u8 *)log, last - log + last_event((const u8 *)last));
	if (tcg)
		for (u8 i = 0; i < 16; i++) {
			read_pcr(tcg, 0x0b, i);
			read_pcr(tcg, 0x0c, i);
		}
	put('@'), put('E'), put('\n');
	reset(2, 0, 0, 0);
}
