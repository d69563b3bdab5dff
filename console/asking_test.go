package console_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// What the pages do between a question and its answer, which may be late or none.

// holds has the page's questions wait until letGo.
func (b *browser) holds() {
	b.t.Helper()
	eval[chromedp.Void](b, `(() => {
		const ask = window.fetch;
		window.held = [];
		window.open = 0;
		window.fetch = (...question) => new Promise((resolve) => { held.push(resolve); })
			.then(() => ask(...question)).finally(() => { window.open--; });
	})()`)
}

// letGo has the gateway answer what the page has asked since holds or the last letGo.
func (b *browser) letGo() {
	b.t.Helper()
	b.until("window.held.length > 0")
	eval[chromedp.Void](b, "window.open += held.length; held.splice(0).forEach((go) => go())")
	b.until("window.open === 0")
	b.until("new Promise((resolve) => setTimeout(() => resolve(true), 50))") // and it is drawn
}

// atACallback returns a browser with the page of a callback that its service took.
func atACallback(t *testing.T) (*service, *browser) {
	t.Helper()
	service := newService(t, http.StatusOK)
	g := start(t, "/console", account, service.address())
	g.send("/hook", "{}")
	service.took(t, 1)
	b := browse(t, g)
	b.open("#/callbacks")
	b.press("POST /hook")
	b.sees("What came")
	return service, b
}

func TestALateAnswerIsNotDrawnOverAnotherPage(t *testing.T) {
	_, b := atACallback(t)
	callback := eval[string](b, "location.hash")
	b.holds()
	for _, page := range []string{callback + "0", callback, "#/callbacks", "#/streams", "#/refusals"} {
		eval[chromedp.Void](b, "location.hash = "+quote(page))
		b.until("window.held.length > 0")
		eval[chromedp.Void](b, "location.hash = '#/nowhere'")
		b.sees("No such page")
		b.letGo()
		require.Equal(t, "No such page", eval[string](b, "document.querySelector('h1').innerText"), page)
	}
}

// Browsers tell that a dialog was closed a moment after it was.
func TestAQuestionMayFollowAnotherAtOnce(t *testing.T) {
	service, b := atACallback(t)
	b.press("Send again")
	b.press("Send again")
	b.sees("It will be sent again.")
	service.took(t, 2)
	b.until("document.querySelector('h1').marked = true")
	eval[chromedp.Void](b, `(() => {
		[...document.querySelectorAll('dialog button')].find((e) => e.innerText === 'Close').click();
		[...document.querySelectorAll('main button')].find((e) => e.innerText.startsWith('Drop')).click();
	})()`)
	b.sees("there is no other copy")
	b.until("!document.querySelector('h1').marked") // by the first question, without waiting for the second
	b.confirm("Drop", "Dropped.")
	b.sees("The inbox is empty.")
	b.clean()
}

func TestWhatIsUnderWayWhenItsQuestionIsClosedIsShownAtItsEnd(t *testing.T) {
	_, b := atACallback(t)
	b.press("Drop")
	b.sees("there is no other copy")
	b.holds()
	b.press("Drop")
	b.sees("Working …")
	b.run(chromedp.KeyEvent(kb.Escape))
	b.until("!document.querySelector('dialog')")
	b.letGo()
	b.until("location.hash === '#/callbacks'")
	b.letGo()
	b.sees("The inbox is empty.")
	b.clean()
}

func TestAQuestionEndsWithItsPage(t *testing.T) {
	service := newService(t, http.StatusOK)
	g := start(t, "/console", account, service.address())
	b := browse(t, g)
	b.open("")
	b.press("Pause")
	b.sees("Deliver nothing of calls any more")
	eval[chromedp.Void](b, "location.hash = '#/streams'")
	b.sees("No stream is live.")
	b.until("!document.querySelector('dialog')")
	b.clean()
}

func TestWhatCannotBeAskedSaysSoAndMayBeTriedAgain(t *testing.T) {
	service := newService(t, http.StatusGone)
	g := start(t, "/console", account, service.address())
	for i := range 60 {
		g.send("/hook", fmt.Sprintf(`{"request_id":"%d"}`, i))
	}
	b := browse(t, g)
	b.open("")
	b.sees("60 dead letters")
	b.open("#/callbacks?state=dead")
	b.sees("Older ones")
	b.sees("Send all of these again")
	eval[chromedp.Void](b, "window.ask = window.fetch; window.fetch = async () => { throw new Error('nobody answers'); }")
	b.press("Older ones")
	b.until("document.body.innerText.split('nobody answers').length === 2")
	b.press("Send all of these again")
	b.until("document.body.innerText.split('nobody answers').length === 3")
	eval[chromedp.Void](b, "window.fetch = window.ask")
	b.press("Older ones")
	b.until("document.querySelectorAll('tbody tr').length === 60")
	b.press("Send all of these again")
	b.sees("Send again 60 dead letters?")
	b.press("Cancel")
	b.until("!document.body.innerText.includes('nobody answers')")
	b.clean()
}
