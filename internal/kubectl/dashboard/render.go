// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"fmt"
	"html/template"
	"net/url"
	"strings"
)

// renderer draws views.
type renderer struct {
	templates        *template.Template
	about, namespace string
}

// newRenderer returns a renderer whose links begin with base.
func newRenderer(base, about, namespace string) (*renderer, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"link": func(parts ...any) string { return link(base, parts) },
		"count": func(n any, one, many string) string {
			if text := fmt.Sprint(n); text != "1" {
				return text + " " + many
			}
			return "1 " + one
		},
	}).ParseFS(files, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("read the pages: %w", err)
	}
	return &renderer{templates: t, about: about, namespace: namespace}, nil
}

// link is the path of a page.
func link(base string, parts []any) string {
	words := make([]string, len(parts))
	for i, p := range parts {
		words[i] = url.PathEscape(fmt.Sprint(p))
	}
	return base + strings.Join(words, "/")
}

// page is what the skeletons are filled with.
type page struct {
	view
	About, Namespace string
	// In has the parts, by the element they are in.
	In   map[string][]template.HTML
	Main template.HTML
}

// document is a whole page.
func (r *renderer) document(v view) ([]byte, error) {
	main, err := r.main(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = r.templates.ExecuteTemplate(&out, "document", page{view: v, About: r.about, Namespace: r.namespace, Main: main})
	if err != nil {
		return nil, fmt.Errorf("draw the page: %w", err)
	}
	return out.Bytes(), nil
}

// main is the content of a page without what all pages have.
func (r *renderer) main(v view) (template.HTML, error) {
	p := page{view: v, About: r.about, Namespace: r.namespace, In: make(map[string][]template.HTML)}
	for _, part := range v.Parts {
		html, err := r.part(part)
		if err != nil {
			return "", err
		}
		p.In[part.In] = append(p.In[part.In], html)
	}
	var out bytes.Buffer
	if err := r.templates.ExecuteTemplate(&out, v.Skeleton, p); err != nil {
		return "", fmt.Errorf("draw the page: %w", err)
	}
	return template.HTML(out.String()), nil //nolint:gosec // it is from a template
}

func (r *renderer) part(p part) (template.HTML, error) {
	var out bytes.Buffer
	if err := r.templates.ExecuteTemplate(&out, p.Template, p); err != nil {
		return "", fmt.Errorf("draw %s: %w", p.ID, err)
	}
	return template.HTML(out.String()), nil //nolint:gosec // it is from a template
}
