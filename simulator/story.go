package simulator

// The words of a simulated transcript, and when they are said. The same text
// and the same duration always give the same words at the same times.

import (
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The pace at which a text is said, in seconds.
const (
	leadIn       = 0.2
	wordBase     = 0.12
	perLetter    = 0.06
	wordGap      = 0.04
	sentenceGap  = 0.6
	paragraphGap = 2.0
)

// maxWords is how many words a pre-recorded result has at most, which is enough for about
// four hours. Words beyond that are left out.
const maxWords = 30000

// story is a text cut into paragraphs, sentences and words.
type story struct {
	paragraphs [][][]string
}

// maxSentence is how many words a sentence may have. A longer one is cut, so that a live
// stream has final results also where the text has no punctuation.
const maxSentence = 40

// newStory cuts a text into pieces. Paragraphs are separated by blank lines, and sentences
// end with a full stop, a question mark or an exclamation mark. It returns nil if there are
// no words.
func newStory(text string) *story {
	s := &story{}
	for paragraph := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n") {
		var sentences [][]string
		var sentence []string
		for _, word := range strings.Fields(paragraph) {
			if plainWord(word) == "" {
				continue
			}
			sentence = append(sentence, word)
			if strings.ContainsAny(word[len(word)-1:], ".?!") || len(sentence) == maxSentence {
				sentences, sentence = append(sentences, sentence), nil
			}
		}
		if len(sentence) > 0 {
			sentences = append(sentences, sentence)
		}
		if len(sentences) > 0 {
			s.paragraphs = append(s.paragraphs, sentences)
		}
	}
	if len(s.paragraphs) == 0 {
		return nil
	}
	return s
}

// plainWord is a word without its punctuation and capitals.
func plainWord(word string) string {
	return strings.ToLower(strings.TrimFunc(word, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r)
	}))
}

// spokenWord is a word and when it is said, in seconds of audio.
type spokenWord struct {
	text       string // as written, with punctuation
	start, end float64
	confidence float64
}

// spokenSentence is a sentence and when it is said.
type spokenSentence struct {
	words      []spokenWord
	start, end float64
	paragraph  int     // the number of its paragraph, over all repetitions
	next       float64 // when the next sentence begins
}

// narrator says a story again and again.
type narrator struct {
	story     *story
	paragraph int
	sentence  int
	count     int     // how many words were said
	time      float64 // when the next word begins
}

func (s *story) narrate() *narrator { return &narrator{story: s, time: leadIn} }

// say returns the next sentence.
func (n *narrator) say() spokenSentence {
	paragraph := n.story.paragraphs[n.paragraph%len(n.story.paragraphs)]
	said := spokenSentence{start: n.time, paragraph: n.paragraph}
	for _, text := range paragraph[n.sentence] {
		word := spokenWord{text: text, start: n.time, confidence: confidence(n.count)}
		word.end = roundTo(word.start+wordBase+perLetter*float64(utf8.RuneCountInString(text)), 100)
		n.time = roundTo(word.end+wordGap, 100)
		n.count++
		said.words = append(said.words, word)
	}
	said.end = said.words[len(said.words)-1].end

	gap := sentenceGap
	if n.sentence++; n.sentence == len(paragraph) {
		n.paragraph, n.sentence = n.paragraph+1, 0
		gap = paragraphGap
	}
	n.time = roundTo(said.end+gap, 100)
	said.next = n.time
	return said
}

// confidence is the confidence of the nth word. It varies, as real ones do.
func confidence(count int) float64 { return 0.9 + float64(count*7919%1000)/10000 }

// said returns the words that have ended after so many seconds.
func (s spokenSentence) said(seconds float64) []spokenWord {
	for i, word := range s.words {
		if word.end > seconds {
			return s.words[:i]
		}
	}
	return s.words
}

// listen returns what is said in the first so many seconds: the sentences, of which the last
// may be cut, and not more words than the given number.
func (s *story) listen(seconds float64, words int) []spokenSentence {
	var heard []spokenSentence
	for n := s.narrate(); n.time < seconds && words > 0; {
		sentence := n.say()
		sentence.words = sentence.said(seconds)
		sentence.words = sentence.words[:min(len(sentence.words), words)]
		if len(sentence.words) == 0 {
			break
		}
		sentence.end = sentence.words[len(sentence.words)-1].end
		words -= len(sentence.words)
		heard = append(heard, sentence)
	}
	return heard
}

// roundTo rounds to a fraction of one, so that sums of decimal fractions do not
// show that they are binary ones.
func roundTo(value, fraction float64) float64 { return math.Round(value*fraction) / fraction }

// length is how long it takes to say the story once.
func (s *story) length() float64 {
	n := s.narrate()
	for n.paragraph < len(s.paragraphs) {
		n.say()
	}
	return roundTo(n.time-paragraphGap, 100)
}
