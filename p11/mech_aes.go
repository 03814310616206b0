package p11

import (
	"crypto/aes"
	gocipher "crypto/cipher"
	"crypto/subtle"
)

const aesFlags = CKF_ENCRYPT | CKF_DECRYPT

// aesMechanisms are the modes of AES (PKCS #11 v3.1, sections 6.10 to 6.13), in software.
var aesMechanisms = []mechanism{
	{id: CKM_AES_KEY_GEN, flags: CKF_GENERATE, keys: CKK_AES, generate: generateHere, sizes: aesSizes},
	{id: CKM_AES_CBC, flags: aesFlags, keys: CKK_AES, stream: newCBC(false), sizes: aesSizes},
	{id: CKM_AES_CBC_PAD, flags: aesFlags, keys: CKK_AES, stream: newCBC(true), sizes: aesSizes},
	{id: CKM_AES_CTR, flags: aesFlags, keys: CKK_AES, stream: newCTR, sizes: aesSizes},
	{id: CKM_AES_GCM, flags: aesFlags, keys: CKK_AES, stream: newGCM, sizes: aesSizes},
}

// aesSizes are bytes, as the standard wants them.
func aesSizes(keySizes) (least, most uint64) { return 16, 32 }

// cbc is cipher-block chaining, with the padding of PKCS #7 or none.
type cbc struct {
	how       Flags
	mode      gocipher.BlockMode
	pads      bool
	held      [aes.BlockSize]byte // of what came and was not given, the last held bytes
	heldBytes int
}

// newCBC reads the IV.
func newCBC(pads bool) newStream {
	return func(how Flags, p parameter) (func(gocipher.Block) stream, error) {
		iv := p.rest
		if len(iv) != aes.BlockSize {
			return nil, CKR_MECHANISM_PARAM_INVALID
		}
		return func(block gocipher.Block) stream {
			if how == CKF_ENCRYPT {
				return &cbc{how: how, mode: gocipher.NewCBCEncrypter(block, iv), pads: pads}
			}
			return &cbc{how: how, mode: gocipher.NewCBCDecrypter(block, iv), pads: pads}
		}, nil
	}
}

func (c *cbc) whole(n int) (int, error) {
	switch {
	case c.how == CKF_ENCRYPT && c.pads:
		return (n/aes.BlockSize + 1) * aes.BlockSize, nil
	case n%aes.BlockSize != 0, c.pads && n == 0:
		return 0, lengthFault(c.how)
	}
	return n, nil
}

// room is whole blocks. A decryption that takes padding away holds one back: it may be the last.
func (c *cbc) room(n int) int {
	n += c.heldBytes
	if c.pads && c.how == CKF_DECRYPT && n > 0 {
		n--
	}
	return n / aes.BlockSize * aes.BlockSize
}

func (c *cbc) update(part []byte) ([]byte, error) {
	out := make([]byte, c.room(len(part)))
	if len(out) > 0 {
		taken := copy(out, c.held[:c.heldBytes])
		part = part[copy(out[taken:], part):]
		c.heldBytes = 0
		c.mode.CryptBlocks(out, out)
	}
	c.heldBytes += copy(c.held[c.heldBytes:], part)
	return out, nil
}

func (c *cbc) rest() int {
	if c.pads {
		return aes.BlockSize
	}
	return 0
}

func (c *cbc) final() ([]byte, error) {
	switch {
	case c.how == CKF_ENCRYPT && c.pads:
		padding := byte(aes.BlockSize - c.heldBytes)
		out := append(make([]byte, 0, aes.BlockSize), c.held[:c.heldBytes]...)
		for len(out) < aes.BlockSize {
			out = append(out, padding)
		}
		c.mode.CryptBlocks(out, out)
		return out, nil
	case !c.pads && c.heldBytes == 0:
		return []byte{}, nil
	case !c.pads || c.heldBytes != aes.BlockSize:
		return nil, lengthFault(c.how)
	}
	out := make([]byte, aes.BlockSize)
	c.mode.CryptBlocks(out, c.held[:])
	n, ok := unpadded(out)
	if !ok {
		clear(out)
		return nil, CKR_ENCRYPTED_DATA_INVALID
	}
	return out[:n], nil
}

// unpadded is how many bytes of a last block are plaintext. Its time does not depend on the padding.
func unpadded(block []byte) (n int, ok bool) {
	padding := int(block[aes.BlockSize-1])
	good := subtle.ConstantTimeLessOrEq(1, padding) & subtle.ConstantTimeLessOrEq(padding, aes.BlockSize)
	for i, b := range block {
		inside := subtle.ConstantTimeLessOrEq(aes.BlockSize-i, padding)
		good &= subtle.ConstantTimeSelect(inside, subtle.ConstantTimeByteEq(b, byte(padding)), 1)
	}
	return aes.BlockSize - padding, good == 1
}

func (c *cbc) wipe() { clear(c.held[:]) }

// ctr is counter mode, with a counter in the low bits of its block.
type ctr struct {
	block   gocipher.Block
	counter [aes.BlockSize]byte
	bits    uint64
	blocks  uint64 // how many were used
	key     [aes.BlockSize]byte
	left    int // bytes of key that were not used
}

// newCTR reads CK_AES_CTR_PARAMS: the counter's bits, and the first counter block.
func newCTR(_ Flags, p parameter) (func(gocipher.Block) stream, error) {
	bits := p.number()
	if p.bad || len(p.rest) != aes.BlockSize || bits < 1 || bits > 8*aes.BlockSize {
		return nil, CKR_MECHANISM_PARAM_INVALID
	}
	first := [aes.BlockSize]byte(p.rest)
	return func(block gocipher.Block) stream { return &ctr{block: block, counter: first, bits: bits} }, nil
}

func (c *ctr) whole(n int) (int, error) { return n, nil }
func (c *ctr) room(n int) int           { return n }
func (c *ctr) rest() int                { return 0 }
func (c *ctr) final() ([]byte, error)   { return []byte{}, nil }
func (c *ctr) wipe()                    { clear(c.key[:]) }

func (c *ctr) update(part []byte) ([]byte, error) {
	out := make([]byte, len(part))
	for done := 0; done < len(part); {
		if c.left == 0 {
			// A counter block that comes twice would give the difference of two plaintexts away.
			if c.bits < 64 && c.blocks == 1<<c.bits {
				clear(out)
				return nil, CKR_DATA_LEN_RANGE
			}
			c.block.Encrypt(c.key[:], c.counter[:])
			c.left = aes.BlockSize
			c.blocks++
			c.count()
		}
		n := subtle.XORBytes(out[done:], part[done:], c.key[aes.BlockSize-c.left:])
		c.left -= n
		done += n
	}
	return out, nil
}

// count adds one to the counter's bits, and leaves the others as they are.
func (c *ctr) count() {
	left := c.bits
	for i := aes.BlockSize - 1; left > 0; i-- {
		mask := byte(0xff)
		if left < 8 {
			mask = 1<<left - 1
		}
		left -= min(left, 8)
		next := c.counter[i] + 1
		c.counter[i] = c.counter[i]&^mask | next&mask
		if c.counter[i]&mask != 0 {
			return
		}
	}
}
