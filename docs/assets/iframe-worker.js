// The search of the site runs in a worker. Browsers load no worker from a file, so on pages that
// are opened from a folder its script runs in a hidden frame instead, with the same two calls.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise((resolve, reject) => {
        this.frame.addEventListener("load", () => {
          const inside = this.frame.contentWindow
          // What the worker sends is for the page, not for the frame itself.
          inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}))
          const script = inside.document.createElement("script")
          script.src = url
          script.onload = () => resolve(inside)
          script.onerror = reject
          inside.document.body.append(script)
        }, {once: true})
      })
      document.body.append(this.frame)
    }
    postMessage(data) {
      this.ready.then(inside => inside.dispatchEvent(new MessageEvent("message", {data})))
    }
    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
