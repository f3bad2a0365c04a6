(function () {
  "use strict";
  var said = document.getElementById("said");

  function copyOld(text) {
    var area = document.createElement("textarea");
    area.value = text;
    area.setAttribute("readonly", "");
    area.className = "unseen";
    document.body.appendChild(area);
    area.select();
    var done = document.execCommand("copy");
    document.body.removeChild(area);
    return done ? Promise.resolve() : Promise.reject(new Error("copying is not allowed"));
  }

  function copy(text) {
    if (navigator.clipboard && navigator.clipboard.writeText) {
      return navigator.clipboard.writeText(text).catch(function () { return copyOld(text); });
    }
    return copyOld(text);
  }

  document.querySelectorAll(".code button").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      var block = button.parentElement.querySelector("code");
      copy(block.textContent).then(function () {
        return "Copied";
      }, function () {
        window.getSelection().selectAllChildren(block);
        return "Selected";
      }).then(function (word) {
        button.focus();
        button.textContent = word;
        said.textContent = word;
        window.setTimeout(function () { button.textContent = "Copy"; said.textContent = ""; }, 2000);
      });
    });
  });

  var contents = document.querySelector("nav details");
  if (window.matchMedia("(max-width: 63.99rem)").matches) {
    contents.open = false;
    contents.addEventListener("click", function (event) {
      if (event.target.tagName === "A") { contents.open = false; }
    });
  }
})();
