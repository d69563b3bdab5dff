package audio

// The header of a WAV file, as far as it is needed for the file's duration.
//
// Format: Microsoft/IBM "Multimedia Programming Interface and Data
// Specifications 1.0" (RIFF, WAVE), and EBU Tech 3306 (RF64).

import "encoding/binary"

// wavHeader is what a WAV file says of its sound.
type wavHeader struct {
	channels    int
	bytesPerSec int64
	dataOffset  int64
	dataSize    int64 // as the header declares it; negative if it does not
}

// parseWAV reads the header from a file's beginning. ok reports whether there is a valid
// one. more says that this cannot be told yet, and more of the file is needed.
func parseWAV(b []byte) (header wavHeader, ok, more bool) {
	if len(b) < 12 {
		return wavHeader{}, false, true
	}
	if id := string(b[:4]); id != "RIFF" && id != "RF64" || string(b[8:12]) != "WAVE" {
		return wavHeader{}, false, false
	}

	hasFormat := false
	for offset := int64(12); ; {
		if int64(len(b)) < offset+8 {
			return wavHeader{}, false, true
		}
		id, size := string(b[offset:offset+4]), int64(binary.LittleEndian.Uint32(b[offset+4:]))
		offset += 8

		switch {
		case id == "data":
			header.dataOffset, header.dataSize = offset, size
			// Programs that cannot seek back leave a placeholder here, and so does RF64.
			if size == 0 || size == 0xffffffff {
				header.dataSize = -1
			}
			return header, hasFormat, false
		case id == "fmt ":
			if size < 16 {
				return wavHeader{}, false, false
			}
			if int64(len(b)) < offset+16 {
				return wavHeader{}, false, true
			}
			if hasFormat = header.readFormat(b[offset : offset+16]); !hasFormat {
				return wavHeader{}, false, false
			}
		}
		// Chunks are padded to an even length.
		offset += size + size&1
	}
}

// readFormat reads the part of a format chunk that all encodings share.
func (h *wavHeader) readFormat(b []byte) bool {
	h.channels = int(binary.LittleEndian.Uint16(b[2:]))
	samplesPerSec := int64(binary.LittleEndian.Uint32(b[4:]))
	h.bytesPerSec = int64(binary.LittleEndian.Uint32(b[8:]))
	if h.bytesPerSec == 0 {
		h.bytesPerSec = samplesPerSec * int64(binary.LittleEndian.Uint16(b[12:]))
	}
	return h.channels > 0 && h.bytesPerSec > 0
}

// seconds returns the duration of a file of so many bytes. It never counts more bytes than
// there are, whatever the header declares.
func (h wavHeader) seconds(size int64) float64 {
	data := max(0, size-h.dataOffset)
	if h.dataSize >= 0 {
		data = min(data, h.dataSize)
	}
	return float64(data) / float64(h.bytesPerSec)
}

// AppendWAVHeader appends the header of a WAV file with so many bytes of sound. format is the number of
// its encoding (RFC 2361).
func AppendWAVHeader(b []byte, format, channels, sampleRate, bitsPerSample, dataSize int) []byte {
	blockAlign := channels * bitsPerSample / 8
	b = append(b, "RIFF"...)
	b = binary.LittleEndian.AppendUint32(b, uint32(36+dataSize))
	b = append(b, "WAVEfmt "...)
	b = binary.LittleEndian.AppendUint32(b, 16)
	b = binary.LittleEndian.AppendUint16(b, uint16(format))
	b = binary.LittleEndian.AppendUint16(b, uint16(channels))
	b = binary.LittleEndian.AppendUint32(b, uint32(sampleRate))
	b = binary.LittleEndian.AppendUint32(b, uint32(sampleRate*blockAlign))
	b = binary.LittleEndian.AppendUint16(b, uint16(blockAlign))
	b = binary.LittleEndian.AppendUint16(b, uint16(bitsPerSample))
	b = append(b, "data"...)
	return binary.LittleEndian.AppendUint32(b, uint32(dataSize))
}
