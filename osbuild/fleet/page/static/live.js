// Loads the page again when the server says that what it shows has changed. Without this the page is complete too.
const main = document.querySelector("main[data-live]");
if (main) {
  const source = new EventSource(main.dataset.live);
  source.onmessage = async () => {
    if (main.contains(document.activeElement) && document.activeElement !== main) return; // somebody fills in a form
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    main.replaceChildren(...page.querySelector("main").childNodes);
  };
}
