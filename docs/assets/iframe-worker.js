// The search of the site runs in a worker. Browsers load no worker from a file, so on pages that
// are opened from a folder its script runs in a hidden frame instead, with the same two calls.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      this.inside = this.frame.contentWindow
      this.ready = new Promise((resolve, reject) => {
        const script = this.inside.document.createElement("script")
        // What the worker sends is for the page, not for the frame itself.
        this.inside.postMessage = data =>
          this.dispatchEvent(new MessageEvent("message", {data}))
        script.src = url
        script.onload = resolve
        script.onerror = reject
        this.inside.document.body.append(script)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", {data})))
    }
    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
