// Shapes of the map: signs of boards, and dots of items.

const pictures = new Map();

/** Draws a triangle with a stroke, or a cross in a square, into a square of a size. */
export function drawSign(c, isTriangle, colour, ground, x, y, size) {
  c.fillStyle = colour;
  c.beginPath();
  if (isTriangle) {
    c.moveTo(x + size / 2, y);
    c.lineTo(x + size, y + size);
    c.lineTo(x, y + size);
  } else {
    c.rect(x, y, size, size);
  }
  c.fill();
  if (size < 9) return;
  c.strokeStyle = ground;
  c.lineWidth = 2;
  c.beginPath();
  if (isTriangle) {
    c.moveTo(x + size / 2, y + size * 0.38);
    c.lineTo(x + size / 2, y + size * 0.82);
  } else {
    c.moveTo(x + size * 0.25, y + size * 0.25);
    c.lineTo(x + size * 0.75, y + size * 0.75);
    c.moveTo(x + size * 0.75, y + size * 0.25);
    c.lineTo(x + size * 0.25, y + size * 0.75);
  }
  c.stroke();
}

/** Draws dots, and rings for those whose position is not known. `points` has x, y and 1 for a ring. Copies
    of one picture, and squares for small dots, are several times faster than one path with all of them. */
export function drawDots(c, points, radius, colour, ratio) {
  c.fillStyle = colour;
  const size = 2 * radius + 2;
  const copies = radius < 3 ? null : [dot(radius, colour, false, ratio), dot(radius, colour, true, ratio)];
  for (let at = 0; at < points.length; at += 3) {
    const [x, y] = [points[at], points[at + 1]];
    if (copies) c.drawImage(copies[points[at + 2]], x - radius - 1, y - radius - 1, size, size);
    else c.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
  }
}

/** Returns the picture of a dot or ring. */
function dot(radius, colour, isRing, ratio) {
  const key = `${radius.toFixed(2)} ${colour} ${isRing} ${ratio}`;
  let picture = pictures.get(key);
  if (picture) return picture;
  if (pictures.size > 50) pictures.clear();
  const pixels = Math.ceil((2 * radius + 2) * ratio);
  picture = new OffscreenCanvas(pixels, pixels);
  const c = picture.getContext("2d");
  c.scale(pixels / (2 * radius + 2), pixels / (2 * radius + 2));
  c.arc(radius + 1, radius + 1, isRing ? radius - 0.75 : radius, 0, 2 * Math.PI);
  [c.fillStyle, c.strokeStyle, c.lineWidth] = [colour, colour, 1.5];
  if (isRing) c.stroke();
  else c.fill();
  pictures.set(key, picture);
  return picture;
}
